//! Tests of what callers can take of the daemon, over its real socket.

use std::{future::pending, path::PathBuf, time::Duration};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use super::*;
use crate::control::{
    AttachSpec, NetnsSource,
    fake::{FakeKernel, Memory, daemon},
};

/// An API on its socket, whose kernel hangs once container `c1` is attached.
struct Served {
    _directory: TempDir,
    path: PathBuf,
    control: Control,
}

async fn served() -> Served {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("vxplane.sock");
    let socket = Socket::bind(&path, None).unwrap();
    let kernel = FakeKernel {
        hangs: Some("c1".to_owned()),
        ..FakeKernel::default()
    };
    let control = daemon(&Memory::default(), kernel).await;
    tokio::spawn(serve(socket, control.clone(), pending()));
    Served {
        _directory: directory,
        path,
        control,
    }
}

async fn send(stream: &mut UnixStream, method: &str, path: &str, body: &str) {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n");
    let request = head + body;
    stream.write_all(request.as_bytes()).await.unwrap();
}

/// One answer of a few kilobytes.
async fn answer(stream: &mut UnixStream) -> String {
    let mut buffer = vec![0; 16 * 1024];
    let read = stream.read(&mut buffer);
    let read = tokio::time::timeout(Duration::from_secs(10), read).await;
    let length = read.unwrap().unwrap();
    String::from_utf8_lossy(&buffer[..length]).into_owned()
}

/// An error unless it is this problem, which says when to ask again.
fn must_be(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let problem: Value = serde_json::from_str(body).unwrap();
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.contains("application/problem+json"), "{answer}");
    assert!(head.contains("retry-after: 1"), "{answer}");
    assert_eq!(problem["code"], code, "{answer}");
}

#[tokio::test]
async fn a_user_has_no_more_than_their_connections() {
    let served = served().await;
    let mut streams = Vec::new();
    for _ in 0..256 {
        streams.push(UnixStream::connect(&served.path).await.unwrap());
    }
    let mut one_more = UnixStream::connect(&served.path).await.unwrap();
    send(&mut one_more, "GET", "/v1/ping", "").await;
    must_be(&answer(&mut one_more).await, 429, "too_many_connections");
    let last = streams.last_mut().unwrap();
    send(last, "GET", "/v1/ping", "").await;
    assert!(answer(last).await.ends_with("pong"));
    drop(streams);
    // Until the daemon has seen them go, there is no place.
    for _ in 0..50 {
        let mut again = UnixStream::connect(&served.path).await.unwrap();
        send(&mut again, "GET", "/v1/ping", "").await;
        if answer(&mut again).await.ends_with("pong") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("closed connections still count");
}

#[tokio::test]
async fn who_asks_too_often_is_told_to_wait() {
    let served = served().await;
    let mut stream = UnixStream::connect(&served.path).await.unwrap();
    // All at once, and not more answers than sockets hold.
    let requests = "GET /v1/ping HTTP/1.1\r\nHost: x\r\n\r\n".repeat(3000);
    let (mut reader, mut writer) = stream.split();
    let mut answers = vec![0; 64 * 1024];
    let mut text = String::new();
    let write = async { drop(writer.write_all(requests.as_bytes()).await) };
    let read = async {
        while !text.contains("too_many_requests") {
            let length = reader.read(&mut answers).await.unwrap();
            assert!(length > 0, "{text}");
            text.push_str(&String::from_utf8_lossy(&answers[..length]));
        }
    };
    let both = async { tokio::join!(write, read) };
    let both = tokio::time::timeout(Duration::from_secs(10), both).await;
    both.unwrap();
    assert!(text.matches("pong").count() >= 1000);
    let refused = text.find("HTTP/1.1 429").unwrap();
    assert!(text[refused..].contains("retry-after: 1"));
}

#[tokio::test]
async fn changes_do_not_pile_up() {
    let served = served().await;
    let blue = json!({ "name": "blue" }).to_string();
    let mut first = UnixStream::connect(&served.path).await.unwrap();
    send(&mut first, "POST", "/v1/networks", &blue).await;
    assert!(answer(&mut first).await.starts_with("HTTP/1.1 201"));
    let mut c1 = AttachSpec::new("blue", NetnsSource::Pid(1));
    c1.container_id = Some("c1".to_owned());
    served.control.attach(c1).await.unwrap_err();

    // From here on the kernel does not follow.
    let mut streams = Vec::new();
    for number in 0..130 {
        let mut stream = UnixStream::connect(&served.path).await.unwrap();
        let body = json!({ "ip": format!("192.0.2.{}", number + 2) }).to_string();
        send(&mut stream, "POST", "/v1/peers", &body).await;
        streams.push(stream);
    }
    let mut refused = 0;
    for stream in &mut streams {
        let text = answer(stream).await;
        if text.contains("kernel_behind") {
            continue;
        }
        must_be(&text, 503, "too_many_changes");
        refused += 1;
    }
    assert_eq!(refused, 2);
}
