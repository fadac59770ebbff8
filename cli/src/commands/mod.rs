//! The commands, a file each.

mod bench;
mod check;
mod code;
mod compare;
mod config;
mod data;
mod doctor;
mod draw;
mod network;
mod plugins;
mod retrain;
mod search;
mod setup;

use crate::args::{Cli, Command};
use crate::console;
use crate::exit::Exit;
use clap::CommandFactory;
use tetlo_loader::Policy;

/// Runs the command.
pub(crate) fn run(cli: Cli) -> anyhow::Result<Exit> {
    let bars = !cli.no_progress;
    code::set_policy(Policy {
        enabled: !cli.no_dynamic_plugins,
        allow_unsafe: cli.allow_unsafe_plugins,
    });
    match cli.command {
        Command::Compare(a) => compare::compare(&a, bars),
        Command::Plan(a) => compare::plan(&a),
        Command::RunTrial(a) => compare::run_trial(&a, bars),
        Command::Report(a) => compare::report(&a),
        Command::Search(a) => search::search(&a, bars),
        Command::Retrain(a) => retrain::retrain(&a, bars),
        Command::Evaluate(a) => retrain::evaluate(&a),
        Command::Plugins(a) => plugins::run(a),
        Command::Network(a) => network::run(a),
        Command::Check(a) => check::run(a),
        Command::Bench(a) => bench::run(&a),
        Command::Config(a) => config::run(a),
        Command::Data(a) => data::run(a),
        Command::Draw(a) => draw::draw(&a),
        Command::Doctor(format) => doctor::doctor(format.format),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tetlo", &mut script);
            console::out_bytes(&script);
            Ok(Exit::Ok)
        }
        Command::Man => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::command()).render(&mut page)?;
            console::out_bytes(&page);
            Ok(Exit::Ok)
        }
    }
}
