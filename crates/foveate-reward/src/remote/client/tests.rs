use std::sync::mpsc::{Receiver, channel};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::{Rubric, RubricConfig};

/// One request after the other is given the next of these answers, the last one for ever.
#[derive(Clone)]
enum Reply {
    /// With this status line and body.
    Http(&'static str, &'static str),
    /// Never.
    Silence,
}

const GOOD: Reply = Reply::Http("200 OK", r#"{"scores": [1, null, 0.25]}"#);

/// A server of these replies, its URL and the bodies that it is sent. It ends with the runtime.
fn server(replies: Vec<Reply>) -> (Runtime, String, Receiver<Value>) {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let url = format!("http://{}/score", listener.local_addr().unwrap());
    let (sender, bodies) = channel();
    runtime.spawn(async move {
        for turn in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            sender.send(read_json(&mut stream).await).unwrap();
            match replies[turn.min(replies.len() - 1)] {
                Reply::Http(status, body) => {
                    let length = body.len();
                    let head = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
                    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                }
                Reply::Silence => {
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_secs(60)).await;
                        drop(stream);
                    });
                }
            }
        }
    });
    (runtime, url, bodies)
}

/// Reads until the bytes after the headers are JSON.
async fn read_json(stream: &mut TcpStream) -> Value {
    let mut request = Vec::new();
    loop {
        let mut chunk = [0; 4096];
        let count = stream.read(&mut chunk).await.unwrap();
        request.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&request);
        if let Some(body) = text.split_once("\r\n\r\n").and_then(|(_, body)| serde_json::from_str(body).ok()) {
            return body;
        }
        assert!(count > 0, "the request ended early");
    }
}

fn config(url: &str, retries: u32) -> RemoteConfig {
    let table = json!({"url": url, "timeout": 0.5, "retries": retries, "backoff": 0.01});
    serde_json::from_value(table).unwrap()
}

/// Scores of three completions.
fn ask(config: &RemoteConfig) -> Result<Vec<Option<f32>>, RewardError> {
    let completions = ["a", "\"b\"", "\u{5927}"].map(Completion::from);
    let answer = Answer::new("3").of(ProblemType::Numerical);
    Remote::new(config).unwrap().scores("How many?", &answer, &completions)
}

/// The message of an error and of its cause.
fn messages(error: &RewardError) -> (String, String) {
    let source = std::error::Error::source(error).unwrap();
    (error.to_string(), source.to_string())
}

#[test]
fn a_batch_is_asked_and_answered_in_order() {
    let (_runtime, url, bodies) = server(vec![GOOD]);
    assert_eq!(ask(&config(&url, 0)).unwrap(), [Some(1.0), None, Some(0.25)]);
    let item = |text| json!({"prompt": "How many?", "completion": text, "answer": "3", "problem_type": "numerical"});
    assert_eq!(bodies.recv().unwrap(), json!({"items": [item("a"), item("\"b\""), item("\u{5927}")]}));
    assert!(bodies.try_recv().is_err());
}

#[test]
fn a_rubric_adds_what_the_server_says() {
    let (_runtime, url, bodies) = server(vec![GOOD]);
    let mut remote = config(&url, 0);
    remote.weight = 2.0;
    let rubric = Rubric::new(RubricConfig { remote: Some(remote), ..RubricConfig::default() }).unwrap();
    let completions = ["<answer>B</answer>", "", "<answer>C</answer>"].map(Completion::from);
    let rewards = rubric.score_group("Which?", &Answer::new("B"), &completions).unwrap();
    assert_eq!(rewards[0].breakdown, [("accuracy", 1.0), ("format", 0.0), ("remote", 1.0)]);
    assert_eq!((rewards[0].total, rewards[2].total), (2.9, 0.5));
    assert!(rewards[1].total.is_nan() && rewards[1].breakdown[2].1.is_nan());
    assert_eq!(rewards[1].accuracy, 0.0);
    assert!(rubric.score_group("Which?", &Answer::new("B"), &[]).unwrap().is_empty());
    assert_eq!(bodies.try_iter().count(), 1);
}

#[test]
fn a_server_that_recovers_is_asked_again() {
    let replies = vec![Reply::Http("503 Service Unavailable", "later"), Reply::Silence, GOOD];
    let (_runtime, url, bodies) = server(replies);
    assert_eq!(ask(&config(&url, 2)).unwrap(), [Some(1.0), None, Some(0.25)]);
    assert_eq!(bodies.try_iter().count(), 3);
}

#[test]
fn a_wrong_answer_is_an_error_that_says_what_was_expected() {
    for (reply, cause) in [
        (Reply::Http("500 Internal Server Error", "boom"), "status 500 Internal Server Error: boom"),
        (Reply::Http("200 OK", r#"{"scores": [1, 2]}"#), "status 200 with 2 scores"),
        (Reply::Http("200 OK", "<html>"), "status 200 with other JSON or none (expected value at line 1"),
        (
            Reply::Http("200 OK", r#"{"scores": ["1", 2, 3]}"#),
            "status 200 with other JSON or none (invalid type: string",
        ),
        (
            Reply::Http("200 OK", r#"{"score": [1, 2, 3]}"#),
            "status 200 with other JSON or none (missing field `scores`",
        ),
    ] {
        let (_runtime, url, _bodies) = server(vec![reply]);
        let (message, source) = messages(&ask(&config(&url, 1)).unwrap_err());
        let expected = format!(
            "the remote scorer at {url} gave no scores for 3 completions, asked 2 times; \
             expected status 200 and {{\"scores\": [3 numbers or nulls]}}"
        );
        assert_eq!(message, expected);
        assert!(source.starts_with(cause), "{source}");
    }
}

#[test]
fn a_server_that_is_slow_or_down_ends_with_an_error() {
    let (_runtime, url, _bodies) = server(vec![Reply::Silence]);
    let (_, source) = messages(&ask(&config(&url, 0)).unwrap_err());
    assert!(source.starts_with("no answer came: ") && source.contains("timed out"), "{source}");

    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (message, source) = messages(&ask(&config(&format!("http://{free}/"), 2)).unwrap_err());
    assert!(message.contains("asked 3 times"), "{message}");
    assert!(source.contains("refused"), "{source}");
}

#[test]
fn a_number_beyond_f32_is_no_score() {
    let (_runtime, url, _bodies) = server(vec![Reply::Http("200 OK", r#"{"scores": [1e300, 0, -2]}"#)]);
    assert_eq!(ask(&config(&url, 0)).unwrap(), [None, Some(0.0), Some(-2.0)]);
}

#[test]
fn wrong_settings_are_errors() {
    let error = |table: Value| Remote::new(&serde_json::from_value(table).unwrap()).unwrap_err().to_string();
    assert_eq!(
        error(json!({"url": "localhost:8000"})),
        "remote.url is localhost:8000, expected http://HOST/PATH or https://HOST/PATH"
    );
    let url = "https://localhost/score";
    assert_eq!(error(json!({"url": url, "timeout": 0.0})), "remote.timeout is 0, expected a number of seconds above 0");
    assert_eq!(
        error(json!({"url": url, "backoff": -1.0})),
        "remote.backoff is -1, expected a number of seconds of at least 0"
    );
}
