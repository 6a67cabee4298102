//! Subcommands that speak to the Admin API of a control plane that runs: tokens, members, authorities.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use clap::{Arg, ArgAction, ArgMatches, Command};
use equipoise_identity::files::write_private;
use equipoise_settings::value::{Kind, Value as SettingValue};
use equipoise_settings::{Settings, cli, keys};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(30);

/// Largest answer.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Longest life of a token, in ms: a year.
const TTL_MAX_MS: u64 = 365 * 86_400_000;

/// Why a subcommand did not do what it should.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// An argument is not what it should be.
    #[error("{0}")]
    Argument(String),
    /// No control plane there.
    #[error("no Admin API at {address}: {source}; name another with --admin")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// No answer, or a broken one.
    #[error("no answer from the Admin API at {address}: {why}")]
    Answer {
        /// Where.
        address: String,
        /// Why.
        why: String,
    },
    /// The answer cannot be kept.
    #[error("{} cannot be written", path.display())]
    Keep {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It says no.
    #[error("the control plane refuses ({status}): {text}")]
    Refused {
        /// As HTTP has it.
        status: u16,
        /// Its words.
        text: String,
    },
}

/// What is asked of the Admin API, and what is printed of the answer.
#[derive(Debug, PartialEq)]
struct Call {
    method: &'static str,
    path: String,
    body: Option<Value>,
    print: Print,
}

#[derive(Debug, PartialEq)]
enum Print {
    /// One field of the answer, alone on its line, for scripts.
    Field(&'static str),
    /// The same, but into a file that only its owner may read.
    FieldTo(&'static str, PathBuf),
    /// The answer as it is.
    All,
    /// This.
    Done(&'static str),
}

/// Adds the subcommands.
pub fn with_commands(command: Command) -> Command {
    let id = |what: &'static str| Arg::new("id").required(true).value_name("ID").help(what);
    let option = |name: &'static str, value: &'static str, what: &'static str| {
        Arg::new(name).long(name).value_name(value).help(what)
    };
    let tokens = Command::new("token")
        .about("Join tokens of nodes and relays")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(
            Command::new("create")
                .about("Print a new token; it is shown this once")
                .arg(option("ttl", "TIME", "How long it can be used, at most a year [default: 1h]"))
                .arg(option("uses", "NUMBER", "How many may join with it [default: 1]"))
                .arg(option("role", "ROLE", "What joins with it: node or relay [default: node]"))
                .arg(option("region", "TEXT", "Region that it binds"))
                .arg(option("zone", "TEXT", "Zone that it binds"))
                .arg(option("label", "KEY=VALUE", "A label that it binds").action(ArgAction::Append))
                .arg(
                    option("out", "FILE", "Keep it in this file, for its owner alone, and print nothing")
                        .value_parser(clap::value_parser!(PathBuf)),
                ),
        )
        .subcommand(Command::new("list").about("Print all tokens, without their secrets"))
        .subcommand(
            Command::new("revoke").about("Take a token back").arg(id("Of the token, as in the list")),
        );
    let nodes = Command::new("node")
        .about("Who has joined")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("list").about("Print all who have enrolled"))
        .subcommand(Command::new("deny").about("Shut an id out, and end its streams").arg(id("Of the node")))
        .subcommand(Command::new("allow").about("Let a denied id in again").arg(id("Of the node")))
        .subcommand(Command::new("forget").about("Free an id for another key").arg(id("Of the node")));
    let force =
        Arg::new("force").long("force").action(ArgAction::SetTrue).help("Although members are cut off");
    let authorities = Command::new("ca")
        .about("The authority that certifies the cluster")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .subcommand(Command::new("show").about("Print the authorities and the stage of their rotation"))
        .subcommand(
            Command::new("rotate")
                .about("Take the next step of a rotation")
                .arg(Arg::new("step").required(true).value_parser(["introduce", "switch", "retire"]))
                .arg(force),
        );
    let admin = Arg::new("admin")
        .long("admin")
        .value_name("HOST:PORT")
        .help("Admin API to speak to [default: the first address of admin.listen]");
    [tokens, nodes, authorities]
        .into_iter()
        .fold(command, |command, one| command.subcommand(one.arg(admin.clone().global(true))))
}

/// Does what the command line says, if it says more than to start.
pub fn run(settings: &Settings, matches: &ArgMatches) -> Option<Result<(), CommandError>> {
    let (area, matches) = matches.subcommand()?;
    let (what, matches) = matches.subcommand()?;
    Some(call(area, what, matches).and_then(|call| {
        let own = || settings.local_address(&keys::ADMIN_LISTEN).map(|address| address.to_string());
        let address = matches.get_one::<String>("admin").cloned().or_else(own).ok_or_else(|| {
            CommandError::Argument("there is no Admin API: name one with --admin".to_owned())
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| CommandError::Argument(format!("no runtime: {error}")))?;
        let answer = runtime.block_on(ask_all(&address, &call))?;
        print(&call.print, &answer)
    }))
}

fn call(area: &str, what: &str, matches: &ArgMatches) -> Result<Call, CommandError> {
    let id = || {
        let id = matches.get_one::<String>("id").map(String::as_str).unwrap_or_default();
        let is_plain = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        if is_plain { Ok(id) } else { Err(CommandError::Argument(format!("`{id}` is not an id"))) }
    };
    let get = |path: &str| Call { method: "GET", path: path.to_owned(), body: None, print: Print::All };
    Ok(match (area, what) {
        ("token", "create") => {
            let body = Some(token_order(matches)?);
            let print = match matches.get_one::<PathBuf>("out") {
                Some(path) => Print::FieldTo("token", path.clone()),
                None => Print::Field("token"),
            };
            Call { method: "POST", path: "/clustering/tokens".to_owned(), body, print }
        }
        ("token", "list") => get(&format!("/clustering/tokens?{PAGE}")),
        ("token", "revoke") => {
            let path = format!("/clustering/tokens/{}", id()?);
            Call { method: "DELETE", path, body: None, print: Print::Done("revoked") }
        }
        ("node", "list") => get(&format!("/clustering/enrolments?{PAGE}")),
        ("node", "deny") => {
            let path = format!("/clustering/denied/{}", id()?);
            Call { method: "PUT", path, body: Some(json!({})), print: Print::Done("denied") }
        }
        ("node", "allow") => {
            let path = format!("/clustering/denied/{}", id()?);
            Call { method: "DELETE", path, body: None, print: Print::Done("allowed") }
        }
        ("node", "forget") => {
            let path = format!("/clustering/enrolments/{}", id()?);
            Call { method: "DELETE", path, body: None, print: Print::Done("forgotten") }
        }
        ("ca", "rotate") => {
            let step = matches.get_one::<String>("step");
            let body = Some(json!({ "step": step, "force": matches.get_flag("force") }));
            Call { method: "POST", path: "/clustering/authorities".to_owned(), body, print: Print::All }
        }
        _ => get("/clustering/authorities"),
    })
}

/// As much of a list as there is in one answer.
const PAGE: &str = "size=1000";

fn token_order(matches: &ArgMatches) -> Result<Value, CommandError> {
    let text = |name: &str| matches.get_one::<String>(name);
    let mut body = Map::new();
    if let Some(ttl) = text("ttl") {
        let kind = Kind::Duration { min_ms: 1000, max_ms: TTL_MAX_MS };
        match kind.parse(ttl) {
            Ok(SettingValue::Duration(ttl)) => drop(body.insert("ttl".to_owned(), ttl.as_secs().into())),
            Ok(_) => {}
            Err(rule) => return Err(CommandError::Argument(format!("--ttl {ttl}: {rule}"))),
        }
    }
    for name in ["uses", "role", "region", "zone"] {
        if let Some(value) = text(name) {
            body.insert(name.to_owned(), value.as_str().into());
        }
    }
    let mut labels = Map::new();
    for label in matches.get_many::<String>("label").into_iter().flatten() {
        let (key, value) = label
            .split_once('=')
            .ok_or_else(|| CommandError::Argument(format!("--label {label}: must be KEY=VALUE")))?;
        labels.insert(key.to_owned(), value.into());
    }
    if !labels.is_empty() {
        body.insert("labels".to_owned(), labels.into());
    }
    Ok(body.into())
}

/// Asks, and of a list for all pages.
async fn ask_all(address: &str, call: &Call) -> Result<Value, CommandError> {
    let mut answer = ask(address, call, &call.path).await?;
    while let Some(next) = answer.get("next").and_then(Value::as_str).map(str::to_owned) {
        // A page says where the next one is, not how large it is.
        let next = if next.contains("size=") { next } else { format!("{next}&{PAGE}") };
        let page = ask(address, call, &next).await?;
        let Some(Value::Array(more)) = page.get("data") else { break };
        if let Some(Value::Array(data)) = answer.get_mut("data") {
            data.extend(more.iter().cloned());
        }
        answer["next"] = page.get("next").cloned().unwrap_or_default();
    }
    Ok(answer)
}

async fn ask(address: &str, call: &Call, path: &str) -> Result<Value, CommandError> {
    let answer = |why: String| CommandError::Answer { address: address.to_owned(), why };
    let exchange = async {
        let connected = TcpStream::connect(address).await;
        let stream =
            connected.map_err(|source| CommandError::Connect { address: address.to_owned(), source })?;
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = handshake.map_err(|error| answer(error.to_string()))?;
        let body = call.body.as_ref().map_or_else(Bytes::new, |body| body.to_string().into());
        let request = http::Request::builder()
            .method(call.method)
            .uri(path)
            .header("host", address)
            .header("content-type", "application/json")
            .body(Full::new(body))
            .map_err(|error| answer(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await.map_err(|error| answer(error.to_string()))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            let body = body.map_err(|error| answer(error.to_string()))?.to_bytes();
            Ok((status, body))
        };
        tokio::select! {
            exchanged = exchange => exchanged,
            ended = connection => Err(answer(ended.err().map_or("it hung up".to_owned(), |error| error.to_string()))),
        }
    };
    let exchanged = timeout(ANSWER_MAX, exchange).await;
    let (status, body) = exchanged.map_err(|_| answer("it took too long".to_owned()))??;
    let value: Value = if body.is_empty() {
        Value::Null
    } else {
        serde_json::from_slice(&body).map_err(|_| answer("it is not JSON".to_owned()))?
    };
    if status.is_success() {
        return Ok(value);
    }
    let message = value.get("message").and_then(Value::as_str).unwrap_or("no reason given");
    let fields = value.get("fields").map(|fields| format!(" {fields}")).unwrap_or_default();
    Err(CommandError::Refused { status: status.as_u16(), text: format!("{message}{fields}") })
}

fn print(print: &Print, answer: &Value) -> Result<(), CommandError> {
    let field = |name: &str| answer.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let text = match print {
        Print::Field(name) => field(name),
        Print::FieldTo(name, path) => {
            let text = field(name) + "\n";
            let kept = std::path::absolute(path).and_then(|path| write_private(&path, text.as_bytes()));
            return kept.map_err(|source| CommandError::Keep { path: path.clone(), source });
        }
        Print::All => serde_json::to_string_pretty(answer).unwrap_or_default(),
        Print::Done(text) => (*text).to_owned(),
    };
    cli::to_stdout(|out| writeln!(out, "{text}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Call, CommandError> {
        let command = with_commands(Command::new("x"));
        let matches = command.try_get_matches_from([&["x"], arguments].concat()).unwrap();
        let (area, matches) = matches.subcommand().unwrap();
        let (what, matches) = matches.subcommand().unwrap();
        call(area, what, matches)
    }

    #[test]
    fn a_token_is_ordered_as_the_command_line_says() {
        let call = read(&[
            "token", "create", "--ttl", "2h", "--uses", "3", "--role", "relay", "--zone", "z", "--label",
            "a=b=c",
        ]);
        let body = call.unwrap().body.unwrap();
        let want = json!({"ttl": 7200, "uses": "3", "role": "relay", "zone": "z", "labels": {"a": "b=c"}});
        assert_eq!(body, want);
        assert_eq!(read(&["token", "create"]).unwrap().body, Some(json!({})));
    }

    #[test]
    fn a_token_is_kept_for_its_owner_alone_and_replaced_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "an older and longer one").unwrap();
        let call = read(&["token", "create", "--out", path.to_str().unwrap()]).unwrap();
        print(&call.print, &json!({"token": "new"})).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new\n");
        let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        let error = print(&Print::FieldTo("token", dir.path().join("no/where")), &json!({})).unwrap_err();
        assert!(error.to_string().contains("no/where"), "{error}");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arguments, want) in [
            (&["token", "create", "--ttl", "2 moons"][..], "--ttl"),
            (&["token", "create", "--label", "x"], "KEY=VALUE"),
            (&["node", "deny", "a/b"], "not an id"),
        ] {
            let error = read(arguments).unwrap_err().to_string();
            assert!(error.contains(want), "{error}");
        }
    }
}
