//! A node as a process of its own.

use std::process::ExitCode;

use anyhow::Context;
use clap::{Arg, ArgAction, ArgMatches, Command};
use equipoise_data_plane::run::{self, Node};
use equipoise_data_plane::settings::{NodeSettings, RELOADED};
use equipoise_data_plane::takeover::{self, Predecessor, Started, Successor};
use equipoise_settings::cli::{self, Start};
use equipoise_settings::notify::notify;
use equipoise_settings::signal::{Asked, StopSignals};
use equipoise_settings::{Process, Settings, health, keys, logs, reload};

fn main() -> ExitCode {
    let command = Command::new("equipoise-data-plane")
        .about("One node: proxy, balancer and health checks")
        .version(env!("CARGO_PKG_VERSION"))
        .arg(
            Arg::new(takeover::FLAG)
                .long(takeover::FLAG)
                .help("Take over from the node that runs with these settings, if there is one")
                .action(ArgAction::SetTrue),
        );
    let command = health::with_command(command);
    match cli::start(command, Process::Node, std::env::args_os(), std::env::vars_os(), NodeSettings::read) {
        Start::Exit(code) => code,
        Start::Check(node) => cli::checked(run::check_files(&node).map_err(anyhow::Error::from)),
        Start::Run(settings, node, matches) => {
            match health::run(&settings, &matches, &[(&keys::STATUS_LISTEN, "/status/ready")]) {
                Some(answered) => cli::exit_code(answered.map_err(anyhow::Error::from)),
                None => cli::exit_code(serve(*settings, *node, &matches)),
            }
        }
    }
}

/// Threads beside the workers: config, DNS, probes, Status API.
const AUXILIARY_THREADS: usize = 2;

/// How a node ends.
enum End {
    /// It was asked to, or a part of it broke off.
    Stop(anyhow::Result<()>),
    /// Another process is there.
    HandOver(Successor),
}

fn serve(settings: Settings, node: NodeSettings, matches: &ArgMatches) -> anyhow::Result<()> {
    let _logs = logs::start(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(AUXILIARY_THREADS)
        .enable_all()
        .build()
        .context("no runtime")?;
    let served = runtime.block_on(async {
        let mut signals = StopSignals::new().context("signals cannot be taken over")?;
        let predecessor = if matches.get_flag(takeover::FLAG) { predecessor(&node).await? } else { None };
        let mut node = run::start_after(node, None, predecessor).await?;
        let mut listeners: Vec<_> = node.proxy_listeners().collect();
        listeners.extend(node.status_addresses().iter().map(|address| ("status", *address)));
        cli::announce(concat!("Equipoise node ", env!("CARGO_PKG_VERSION")), &listeners);
        notify("READY=1");
        match until_end(&mut node, &mut signals, settings, matches).await {
            End::Stop(result) => {
                notify("STOPPING=1");
                signals.stop(Box::pin(node.stop())).await;
                result
            }
            End::HandOver(successor) => {
                let mut gone = Ok(());
                signals.stop(Box::pin(async { gone = node.hand_over(successor).await })).await;
                Ok(gone?)
            }
        }
    });
    // A disk that hangs must not hold up the exit: everything that matters has been waited for.
    runtime.shutdown_background();
    served
}

/// The node whose place is to be taken.
async fn predecessor(node: &NodeSettings) -> anyhow::Result<Option<Predecessor>> {
    let Some(terms) = node.takeover.clone() else { return Ok(None) };
    let socket = terms.socket.display().to_string();
    let asked = tokio::task::spawn_blocking(move || Predecessor::ask(&terms.socket, terms.patience)).await?;
    let predecessor = asked.with_context(|| format!("cannot take over at {socket}"))?;
    if predecessor.is_none() {
        tracing::info!(socket, "no node to take over from: starting by itself");
    }
    Ok(predecessor)
}

/// Does what it is asked for, until that is to end.
async fn until_end(
    node: &mut Node,
    signals: &mut StopSignals,
    mut settings: Settings,
    matches: &ArgMatches,
) -> End {
    let mut started: Option<Started> = None;
    loop {
        let asked = tokio::select! {
            asked = signals.asked() => asked,
            ended = node.ended() => return End::Stop(Err(ended.into())),
            successor = node.successor() => {
                if let Some(started) = started {
                    started.has_taken_over();
                }
                return End::HandOver(successor);
            }
        };
        match asked {
            Asked::Stop(signal) => {
                tracing::info!(signal, "draining");
                if let Some(started) = started {
                    started.end();
                }
                return End::Stop(Ok(()));
            }
            Asked::Reload => {
                let read = NodeSettings::read;
                if let Some((new, typed)) = reload::read(matches, Process::Node, std::env::vars_os(), read) {
                    match node.reload(typed).await {
                        Ok(()) => reload::report(&mut settings, &new, RELOADED),
                        Err(error) => reload::refused(&anyhow::Error::from(error)),
                    }
                }
            }
            Asked::ReopenLogs => {
                tracing::info!(signal = "SIGUSR1", "opening access logs anew");
                node.reopen_logs();
            }
            Asked::TakeOver if started.as_ref().is_some_and(Started::is_under_way) => {
                tracing::warn!("a successor is starting already");
            }
            Asked::TakeOver => match takeover::start(settings.duration(&keys::NODE_TAKEOVER_TIMEOUT)) {
                Ok(successor) => started = Some(successor),
                Err(error) => tracing::error!(%error, "a successor cannot be started: this process goes on"),
            },
        }
    }
}
