//! A build without the remote scorer.

#![cfg(not(feature = "remote"))]

use foveate_reward::Rubric;
use serde_json::json;

#[test]
fn a_build_without_the_remote_scorer_refuses_it() {
    let table = json!({"accuracy": {}, "remote": {"url": "http://localhost/"}});
    let error = Rubric::new(serde_json::from_value(table).unwrap()).unwrap_err().to_string();
    assert!(error.contains("http://localhost/") && error.contains("without the feature `remote`"), "{error}");
}
