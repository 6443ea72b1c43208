//! Scores a few completions of one question. Run with `cargo run -p foveate-reward --example score`.

use foveate_reward::{Answer, RewardError, Rubric, RubricConfig};

fn main() -> Result<(), RewardError> {
    let rubric = Rubric::new(RubricConfig::default())?;
    let answer = Answer::new("B");
    println!("the answer is {}", answer.text());
    for completion in [
        "<think>The ball stops in the second half.</think><answer>B</answer>",
        "<think>The ball never stops.</think><answer>C</answer>",
        "<answer>B</answer>",
        "It is B.",
    ] {
        let reward = rubric.score(&answer, completion);
        let parts: Vec<_> = reward.breakdown.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{:.2} ({})  {completion}", reward.total, parts.join(", "));
    }
    Ok(())
}
