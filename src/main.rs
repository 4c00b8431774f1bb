//! The program: read the command line, start the logs, do what was asked, say how it ended.

use std::process::ExitCode;

use pgseal::cli::{Cli, ExitStatus};
use pgseal::{config, hardening, telemetry};
use time::OffsetDateTime;

fn main() -> ExitCode {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(help_or_usage) => {
            // Nobody is left to tell where the output is closed.
            let _said = help_or_usage.print();
            return if help_or_usage.use_stderr() {
                ExitStatus::Usage.into()
            } else {
                ExitStatus::Done.into()
            };
        }
    };
    telemetry::start(cli.verbosity(), cli.log_format(), config::no_color(), now);
    hardening::keep_memory_private();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let runtime = runtime.expect("the system gives this process threads");
    let ended = runtime.block_on(cli.run(now));
    // Threads that still compute for something that was left must not hold the end up.
    runtime.shutdown_background();
    ended.into()
}

#[expect(
    clippy::disallowed_methods,
    reason = "the one clock; everything else gets the time as an argument"
)]
fn now() -> OffsetDateTime {
    OffsetDateTime::now_utc()
}
