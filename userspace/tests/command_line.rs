//! The binary as a shell sees it: exit status, messages, precedence. Needs no
//! privilege and no daemon.

#![expect(
    clippy::unwrap_used,
    reason = "outside of test functions clippy does not see that these are tests"
)]

use std::{
    fs,
    io::Read,
    os::unix::net::UnixListener,
    process::{Command, Output, Stdio},
    thread,
};

use tempfile::TempDir;

fn vxplane() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vxplane"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("VXPLANE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Exit status and standard error.
fn outcome(command: &mut Command) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = command.output().unwrap();
    (status.code(), String::from_utf8(stderr).unwrap())
}

fn directory() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn help_and_version_are_a_success_and_wrong_usage_is_2() {
    for (args, expected) in [
        (&["--help"][..], 0),
        (&["--version"], 0),
        (&["network", "create", "--help"], 0),
        (&[], 2),
        (&["policy", "apply"], 2),
        (&["network", "create"], 2),
        (
            &[
                "endpoint",
                "attach",
                "--network",
                "a",
                "--netns",
                "/n",
                "--pid",
                "1",
            ],
            2,
        ),
        (&["daemon", "--socket", "/s"], 2),
        (&["daemon", "--port", "70000"], 2),
    ] {
        let (status, _) = outcome(vxplane().args(args));
        assert_eq!(status, Some(expected), "{args:?}");
    }
}

#[test]
fn a_missing_daemon_is_1_and_says_how_to_start_one() {
    let directory = directory();
    let run_dir = directory.path().to_str().unwrap();
    let (status, error) = outcome(vxplane().args(["network", "ls", "--run-dir", run_dir]));
    assert_eq!(status, Some(1));
    assert!(
        error.contains(&format!("{run_dir}/vxplane.sock")),
        "{error}"
    );
    assert!(error.contains("`vxplane daemon`"), "{error}");
}

#[test]
fn flags_beat_the_environment() {
    let asked = |command: &mut Command| outcome(command.arg("status")).1;
    let error = asked(vxplane().env("VXPLANE_RUN_DIR", "/nonexistent/env"));
    assert!(error.contains("/nonexistent/env/vxplane.sock"), "{error}");
    let error = asked(vxplane().env("VXPLANE_SOCKET", "/nonexistent/env.sock"));
    assert!(error.contains("/nonexistent/env.sock"), "{error}");
    let error = asked(
        vxplane()
            .env("VXPLANE_SOCKET", "/nonexistent/env.sock")
            .args(["--run-dir", "/nonexistent/flag"]),
    );
    assert!(error.contains("/nonexistent/flag/vxplane.sock"), "{error}");
}

#[test]
fn a_wrong_configuration_is_1_and_names_the_line() {
    let directory = directory();
    let config = directory.path().join("vxplane.toml");
    fs::write(&config, "port = 4789\nprot = 4790\n").unwrap();
    for command in ["daemon", "doctor"] {
        let (status, error) = outcome(vxplane().arg(command).arg("--config").arg(&config));
        assert_eq!(status, Some(1), "{command}");
        assert!(
            error.contains("line 2") && error.contains("`prot`"),
            "{error}"
        );
    }
    // A file in place of a directory: if the store were taken, no daemon would come of it.
    let (status, error) = outcome(
        vxplane()
            .args([
                "daemon",
                "--store",
                "consul://127.0.0.1:8500",
                "--state-dir",
            ])
            .arg(&config),
    );
    assert!(matches!(status, Some(1 | 2)), "{status:?}");
    assert!(error.contains("etcd://"), "{error}");
}

#[test]
fn what_is_no_daemon_is_said_to_be_none() {
    let directory = directory();
    let path = directory.path().join("vxplane.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).unwrap();
        std::io::Write::write_all(
            &mut stream,
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        )
        .unwrap();
    });
    let (status, error) = outcome(vxplane().arg("status").arg("--socket").arg(&path));
    assert_eq!(status, Some(1));
    assert!(
        error.contains("does not answer as a vxplane daemon"),
        "{error}"
    );
    server.join().unwrap();
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let mut child = vxplane()
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let mut error = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut error)
        .unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(error, "");
}

#[test]
fn each_shell_has_its_completions() {
    for (shell, fragment) in [
        ("bash", "complete"),
        ("zsh", "#compdef vxplane"),
        ("fish", "complete -c"),
    ] {
        let Output { status, stdout, .. } =
            vxplane().args(["completions", shell]).output().unwrap();
        assert!(status.success());
        assert!(
            String::from_utf8(stdout).unwrap().contains(fragment),
            "{shell}"
        );
    }
}
