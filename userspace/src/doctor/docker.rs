//! Whether there is a Docker Engine.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use super::Check;

/// An Engine answers a ping within milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks the Engine at `socket` whether it is there.
pub(super) async fn reachable(socket: &Path) -> Check {
    const NAME: &str = "docker";
    let shown = socket.display();
    let answer = timeout(PATIENCE, ping(socket))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    match answer {
        Ok(status) if status.contains(" 200 ") => {
            Check::ok(NAME, format!("the Docker Engine at {shown} answers"))
        }
        Ok(status) => Check::warn(
            NAME,
            format!("{shown} answers, but not as a Docker Engine: {status}"),
            "name the Engine's socket with --docker unix:///PATH",
        ),
        Err(error) => Check::warn(
            NAME,
            format!("no Docker Engine at {shown}: {error}"),
            "start it, or name its socket with --docker unix:///PATH; networks and endpoints \
             made by hand work without it",
        ),
    }
}

/// The status line of the answer to `GET /_ping`.
async fn ping(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket).await?;
    stream
        .write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")
        .await?;
    let mut answer = Vec::new();
    stream.take(4096).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

#[cfg(test)]
mod tests {
    use tokio::net::UnixListener;

    use super::*;
    use crate::doctor::Status;

    async fn asked(answer: &'static [u8]) -> Check {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = [0; 1024];
            let length = stream.read(&mut question).await.unwrap();
            assert!(question[..length].starts_with(b"GET /_ping HTTP/1.1\r\n"));
            stream.write_all(answer).await.unwrap();
        });
        reachable(&path).await
    }

    #[tokio::test]
    async fn tells_an_engine_from_something_else_and_from_nothing() {
        assert_eq!(asked(b"HTTP/1.1 200 OK\r\n\r\nOK").await.status, Status::Ok);
        let other = asked(b"HTTP/1.1 404 Not Found\r\n\r\n").await;
        assert!(other.detail.contains("404 Not Found"), "{other:?}");
        let nothing = reachable(Path::new("/nonexistent/docker.sock")).await;
        assert_eq!(nothing.status, Status::Warn);
    }
}
