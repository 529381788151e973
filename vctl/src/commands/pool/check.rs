//! `vctl pool check`.

use crate::context::{Changing, Context};
use crate::exit::Done;
use crate::output::{Output, count, printable};
use apparatus::admin::check::{self, Problem};
use apparatus::controller::Wait;
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;

/// `vctl pool check`
#[derive(Args, Debug)]
pub struct Check {
    /// Repair what can be repaired without losing data
    #[arg(long)]
    repair: bool,
    /// With --repair: say what would be repaired, and repair nothing
    #[arg(long, requires = "repair")]
    dry_run: bool,
    /// With --repair: wait while another controller holds the lock, at most this long if a time is given
    #[arg(long, value_name = "TIME", num_args = 0..=1, require_equals = true, requires = "repair",
          default_missing_value = "ever", value_parser = crate::arguments::waiting)]
    wait: Option<Wait>,
}

#[derive(Serialize)]
struct Report<'a> {
    problems: &'a [Problem],
    repaired: &'a [String],
    dry_run: bool,
}

impl Check {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let mut problems = check::check(&context.pool)?;
        let mut repaired = Vec::new();
        if self.repair && !self.dry_run && problems.iter().any(|problem| problem.repairable) {
            let changing = Changing {
                dry_run: false,
                wait: self.wait,
            };
            let mut controller = context.controller("pool check --repair", &changing)?;
            repaired = check::repair(&mut controller)?;
            drop(controller);
            problems = check::check(&context.pool)?;
        }
        let report = Report {
            problems: &problems,
            repaired: &repaired,
            dry_run: self.dry_run,
        };
        context.out.say(&report, |out| {
            print_text(out, &report);
            Ok(())
        })?;
        Ok(Done::WithProblems(problems.len()))
    }
}

fn print_text(out: &mut Output, report: &Report<'_>) {
    for line in report.repaired {
        out.line(&format!("repaired: {}", printable(line)));
    }
    for problem in report.problems {
        out.line(&format!(
            "{}: {}",
            printable(&problem.subject),
            printable(&problem.why)
        ));
        if report.dry_run && problem.repairable {
            out.line("  would be repaired");
        } else if let Some(hint) = &problem.hint {
            out.line(&format!("  hint: {}", printable(hint)));
        }
    }
    match report.problems.len() {
        0 => out.line("no problems"),
        number => out.line(&count(number, "problem")),
    }
}
