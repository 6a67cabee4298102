//! The binary's flags; also what makes `cargo test --workspace` build the binary that `tests/` starts.

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_equipoise-data-plane"))
        .args(arguments)
        .env_clear()
        .output()
        .expect("the binary starts")
}

#[test]
fn help_names_the_settings_of_this_process() {
    let output = run(&["--help"]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    for flag in ["--check", "--print-settings", "--log-level"] {
        assert!(text.contains(flag), "{flag} in {text}");
    }
}

#[test]
fn a_misspelt_flag_is_refused_with_the_nearest_one() {
    let output = run(&["--log-levle", "debug"]);
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("--log-level"), "{text}");
}

#[test]
fn a_bad_value_is_refused_with_its_key_and_rule() {
    let output = run(&["--log-level", "loud", "--check"]);
    assert_eq!(output.status.code(), Some(78));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("log.level") && text.contains("must be one of"), "{text}");
}

#[test]
fn valid_settings_pass_the_check() {
    assert!(run(&["--log-level", "warn", "--check"]).status.success());
}
