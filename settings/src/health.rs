//! `health`: asks the process that runs with the same settings whether it serves. For images that have no shell and no
//! client to ask with; called by the `main` of every binary.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::{ArgMatches, Command};

use crate::keys::Key;
use crate::source::Settings;

/// Longest wait for the connection, and again for each read of the answer.
const WAIT: Duration = Duration::from_secs(3);

/// `HTTP/1.1 200`.
const STATUS_LINE_BYTES: usize = 12;

/// Why a process does not count as serving.
#[derive(Debug, thiserror::Error)]
pub enum Unhealthy {
    /// It has no address that could be asked.
    #[error("`{0}` is off, so nobody can be asked")]
    Off(&'static str),
    /// No answer.
    #[error("no answer from {address}")]
    Unreachable {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another answer than 200.
    #[error("{address}{path} answers `{answer}`")]
    Answer {
        /// Where.
        address: SocketAddr,
        /// What was asked.
        path: &'static str,
        /// The first words of the answer.
        answer: String,
    },
}

/// Adds the subcommand.
pub fn with_command(command: Command) -> Command {
    command.subcommand(
        Command::new("health")
            .about("Ask the process that runs with these settings whether it serves; exit code 0 if it does"),
    )
}

/// If the command line asks for it: whether a `GET` of every path answers 200 at the first address of its key.
///
/// # Errors
/// In the inner result: who does not answer so.
pub fn run(
    settings: &Settings,
    matches: &ArgMatches,
    asked: &[(&'static Key, &'static str)],
) -> Option<Result<(), Unhealthy>> {
    (matches.subcommand_name() == Some("health")).then(|| {
        asked.iter().try_for_each(|(key, path)| {
            ask(settings.local_address(key).ok_or(Unhealthy::Off(key.name))?, path)
        })
    })
}

fn ask(address: SocketAddr, path: &'static str) -> Result<(), Unhealthy> {
    let mut head = [0; STATUS_LINE_BYTES];
    let mut exchange = || {
        let mut stream = TcpStream::connect_timeout(&address, WAIT)?;
        stream.set_read_timeout(Some(WAIT))?;
        stream.set_write_timeout(Some(WAIT))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        stream.read_exact(&mut head)
    };
    exchange().map_err(|source| Unhealthy::Unreachable { address, source })?;
    if head == *b"HTTP/1.1 200" {
        return Ok(());
    }
    let answer = head.escape_ascii().to_string();
    Err(Unhealthy::Answer { address, path, answer })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_an_answer_of_200_counts() {
        for (answer, is_healthy) in [
            ("HTTP/1.1 200 OK\r\n\r\n", true),
            ("HTTP/1.1 503 Service Unavailable\r\n\r\n", false),
            ("220 mail.example ESMTP\r\n", false),
            ("", false),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            let server = std::thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    request.extend(byte);
                }
                stream.write_all(answer.as_bytes()).unwrap();
                String::from_utf8(request).unwrap()
            });
            assert_eq!(ask(address, "/status").is_ok(), is_healthy, "{answer}");
            assert!(server.join().unwrap().starts_with("GET /status HTTP/1.1\r\n"));
        }
    }

    #[test]
    fn nobody_there_is_not_healthy() {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let error = ask(address, "/status").unwrap_err();
        assert!(matches!(error, Unhealthy::Unreachable { .. }), "{error}");
    }
}
