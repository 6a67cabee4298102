//! A node as a process of its own.

use std::process::ExitCode;

use anyhow::Context;
use clap::Command;
use equipoise_data_plane::{run, settings::NodeSettings};
use equipoise_settings::cli::{self, Start};
use equipoise_settings::{Process, Settings, health, keys, logs, signal::StopSignals};

fn main() -> ExitCode {
    let command = Command::new("equipoise-data-plane")
        .about("One node: proxy, balancer and health checks")
        .version(env!("CARGO_PKG_VERSION"));
    let command = health::with_command(command);
    match cli::start(command, Process::Node, std::env::args_os(), std::env::vars_os(), NodeSettings::read) {
        Start::Exit(code) => code,
        Start::Run(settings, node, matches) => {
            match health::run(&settings, &matches, &[(&keys::STATUS_LISTEN, "/status/ready")]) {
                Some(answered) => cli::exit_code(answered.map_err(anyhow::Error::from)),
                None => cli::exit_code(serve(&settings, *node)),
            }
        }
    }
}

/// Threads beside the workers: config, DNS, probes, Status API.
const AUXILIARY_THREADS: usize = 2;

fn serve(settings: &Settings, node: NodeSettings) -> anyhow::Result<()> {
    logs::start(settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(AUXILIARY_THREADS)
        .enable_all()
        .build()
        .context("no runtime")?;
    let served = runtime.block_on(async {
        let mut signals = StopSignals::new().context("signals cannot be taken over")?;
        let node = run::start(node, None).await?;
        let mut listeners: Vec<_> = node.proxy_listeners().collect();
        listeners.extend(node.status_addresses().iter().map(|address| ("status", *address)));
        cli::announce(concat!("Equipoise node ", env!("CARGO_PKG_VERSION")), &listeners);
        let result = tokio::select! {
            signal = signals.next() => {
                tracing::info!(signal, "draining");
                Ok(())
            }
            ended = node.ended() => Err(ended.into()),
        };
        signals.stop(node.stop()).await;
        result
    });
    // A disk that hangs must not hold up the exit: everything that matters has been waited for.
    runtime.shutdown_background();
    served
}
