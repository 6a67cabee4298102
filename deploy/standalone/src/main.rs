//! Both planes in one process: they speak the cluster's gRPC contract over an in-memory pipe.

mod demo;

use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Command};
use equipoise_control_plane::settings::ControlPlaneSettings;
use equipoise_data_plane::settings::{NodeSettings, RELOADED};
use equipoise_settings::cli::{self, Start};
use equipoise_settings::notify::notify;
use equipoise_settings::signal::{Asked, StopSignals};
use equipoise_settings::{Problem, Process, Settings, health, keys, logs, reload};
use tokio::sync::mpsc;

/// Pipes that may wait to be taken: the node opens one at a time.
const PIPES_WAITING: usize = 4;

/// Where the demo keeps its config, unless a directory is set.
const DEMO_DIRECTORY: &str = "equipoise-demo";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Serve,
    Demo,
}

/// As of the control plane by itself: gives back what an import took.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = Command::new("equipoise")
        .about("Equipoise: control plane and node in one process")
        .version(env!("CARGO_PKG_VERSION"))
        .subcommand(
            Command::new("demo").about("Also start two small targets and balance them, as in the tutorial"),
        );
    let command = health::with_command(command);
    match cli::start(command, Process::Standalone, std::env::args_os(), std::env::vars_os(), read) {
        Start::Exit(code) => code,
        Start::Check(planes) => {
            let control = equipoise_control_plane::run::check_files(&planes.0).map_err(anyhow::Error::from);
            let node = || equipoise_data_plane::run::check_files(&planes.1).map_err(anyhow::Error::from);
            cli::checked(control.and_then(|()| node()))
        }
        Start::Run(settings, planes, matches) => {
            let asked = [(&keys::ADMIN_LISTEN, "/status"), (&keys::STATUS_LISTEN, "/status/ready")];
            if let Some(answered) = health::run(&settings, &matches, &asked) {
                return cli::exit_code(answered.map_err(anyhow::Error::from));
            }
            let (mut control, mut node) = *planes;
            let mode = if matches.subcommand_name() == Some("demo") { Mode::Demo } else { Mode::Serve };
            if mode == Mode::Demo && settings.is_default(&keys::STORE_DIR) {
                // Nobody's config: the demo writes what it likes there.
                control = control.in_directory(DEMO_DIRECTORY.into());
                node = within(&control, node);
            }
            cli::exit_code(serve(*settings, &matches, (control, node), mode))
        }
    }
}

/// Settings of both planes.
fn read(settings: &Settings) -> Result<(ControlPlaneSettings, NodeSettings), Problem> {
    let control = ControlPlaneSettings::read(settings)?;
    let node = within(&control, NodeSettings::read(settings)?);
    Ok((control, node))
}

/// The node keeps its cache with the store, and encrypts it as that is.
fn within(control: &ControlPlaneSettings, node: NodeSettings) -> NodeSettings {
    NodeSettings { cache_dir: control.store.directory.join("node"), keys: control.keys.clone(), ..node }
}

fn serve(
    settings: Settings,
    matches: &ArgMatches,
    (control, node): (ControlPlaneSettings, NodeSettings),
    mode: Mode,
) -> anyhow::Result<()> {
    let _logs = logs::start(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(run(settings, matches, (control, node), mode))
}

async fn run(
    mut settings: Settings,
    matches: &ArgMatches,
    (control, node): (ControlPlaneSettings, NodeSettings),
    mode: Mode,
) -> anyhow::Result<()> {
    let mut signals = StopSignals::new().context("signals cannot be taken over")?;
    let (pipe, pipes) = mpsc::channel(PIPES_WAITING);
    let control = equipoise_control_plane::run::start(control, Some(pipes)).await?;
    let mut node = match equipoise_data_plane::run::start(node, Some(pipe)).await {
        Ok(node) => node,
        Err(error) => {
            control.stop().await;
            return Err(error.into());
        }
    };
    let mut listeners: Vec<_> = control.admin_addresses().iter().map(|address| ("admin", *address)).collect();
    listeners.extend(node.proxy_listeners());
    listeners.extend(node.status_addresses().iter().map(|address| ("status", *address)));
    cli::announce(concat!("Equipoise ", env!("CARGO_PKG_VERSION")), &listeners);
    let admin = control.admin_addresses().first().copied();
    let proxy = node.proxy_listeners().find(|(name, _)| *name == "proxy").map(|(_, address)| address);
    let demo = async move {
        match (mode, admin, proxy) {
            (Mode::Demo, Some(admin), Some(proxy)) => {
                let targets = demo::set_up(admin).await?;
                demo::show(admin, proxy, targets).await;
            }
            (Mode::Demo, _, _) => anyhow::bail!("the demo needs admin.listen and proxy.listen"),
            (Mode::Serve, _, _) => {}
        }
        std::future::pending::<anyhow::Result<()>>().await
    };
    notify("READY=1");
    let mut demo = std::pin::pin!(demo);
    let result = loop {
        let asked = tokio::select! {
            asked = signals.asked() => asked,
            ended = node.ended() => break Err(ended.into()),
            result = &mut demo => break result,
        };
        match asked {
            Asked::Stop(signal) => {
                tracing::info!(signal, "draining");
                break Ok(());
            }
            Asked::Reload => {
                let read = reload::read(matches, Process::Standalone, std::env::vars_os(), read);
                if let Some((new, (_, of_node))) = read {
                    control.reopen_log();
                    match node.reload(of_node).await {
                        Ok(()) => reload::report(&mut settings, &new, RELOADED),
                        Err(error) => reload::refused(&anyhow::Error::from(error)),
                    }
                }
            }
            Asked::ReopenLogs => {
                tracing::info!(signal = "SIGUSR1", "opening access logs anew");
                control.reopen_log();
                node.reopen_logs();
            }
            Asked::TakeOver => tracing::info!(signal = "SIGUSR2", "has no effect"),
        }
    };
    notify("STOPPING=1");
    let stop = async {
        // The node first: it drains its clients with the config it has.
        node.stop().await;
        control.stop().await;
    };
    signals.stop(Box::pin(stop)).await;
    result
}
