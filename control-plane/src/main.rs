//! The control plane as a process of its own.

mod command;

use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgMatches, Command};
use equipoise_control_plane::{run, settings::ControlPlaneSettings};
use equipoise_settings::cli::{self, Start};
use equipoise_settings::notify::notify;
use equipoise_settings::signal::{Asked, StopSignals};
use equipoise_settings::{Process, Settings, health, keys, logs, reload};

/// Gives back what an import took, which glibc's does not.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let command = Command::new("equipoise-control-plane")
        .about("Admin API, durable config and its distribution to nodes")
        .version(env!("CARGO_PKG_VERSION"));
    let command = health::with_command(command::with_commands(command));
    let environment = std::env::vars_os();
    let read = ControlPlaneSettings::read;
    match cli::start(command, Process::ControlPlane, std::env::args_os(), environment, read) {
        Start::Exit(code) => code,
        Start::Check(plane) => cli::checked(run::check_files(&plane).map_err(anyhow::Error::from)),
        Start::Run(settings, plane, matches) => {
            if let Some(answered) = health::run(&settings, &matches, &[(&keys::ADMIN_LISTEN, "/status")]) {
                return cli::exit_code(answered.map_err(anyhow::Error::from));
            }
            match command::run(&settings, &matches) {
                Some(done) => cli::exit_code(done),
                None => cli::exit_code(serve(*settings, *plane, &matches)),
            }
        }
    }
}

fn serve(mut settings: Settings, plane: ControlPlaneSettings, matches: &ArgMatches) -> anyhow::Result<()> {
    let _logs = logs::start(&settings);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        let mut signals = StopSignals::new().context("signals cannot be taken over")?;
        let control = run::start(plane, None).await?;
        let mut listeners: Vec<_> =
            control.admin_addresses().iter().map(|address| ("admin", *address)).collect();
        listeners.extend(control.cluster_addresses().iter().map(|address| ("cluster", *address)));
        cli::announce(concat!("Equipoise control plane ", env!("CARGO_PKG_VERSION")), &listeners);
        notify("READY=1");
        loop {
            match signals.asked().await {
                Asked::Stop(signal) => {
                    tracing::info!(signal, "stopping");
                    break;
                }
                Asked::Reload => {
                    let read = reload::read(
                        matches,
                        Process::ControlPlane,
                        std::env::vars_os(),
                        ControlPlaneSettings::read,
                    );
                    if let Some((new, _)) = read {
                        control.reopen_log();
                        reload::report(&mut settings, &new, &[]);
                    }
                }
                Asked::ReopenLogs => {
                    tracing::info!(signal = "SIGUSR1", "opening access logs anew");
                    control.reopen_log();
                }
                Asked::TakeOver => tracing::info!(signal = "SIGUSR2", "has no effect"),
            }
        }
        notify("STOPPING=1");
        signals.stop(control.stop()).await;
        Ok(())
    })
}
