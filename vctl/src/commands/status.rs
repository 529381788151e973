//! `vctl status`.

use crate::context::Context;
use crate::exit::Done;
use crate::output::{Cell, Output, Tone, count, printable, size};
use apparatus::admin::status::{self, Finding};
use apparatus::model::error::Result;
use apparatus::model::event::Severity;
use apparatus::model::records::DiskAccess;
use apparatus::model::units::ByteCount;
use clap::Args;
use serde::Serialize;

/// `vctl status`
#[derive(Args, Debug)]
#[command(
    after_help = "Exit status: 0 healthy, 7 something has to be done (a warning or an error is listed)."
)]
pub struct Status {}

#[derive(Serialize)]
struct StatusReport {
    healthy: bool,
    pool: String,
    findings: Vec<Row>,
    access: DiskAccess,
    disks: usize,
    volumes: usize,
    apparatuses: usize,
    serving: usize,
    #[serde(skip_serializing_if = "is_zero")]
    nodes: usize,
    jobs: usize,
    size: ByteCount,
    free: ByteCount,
    controller: Option<String>,
}

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    severity: &'static str,
    subject: String,
    text: String,
    next: Option<String>,
}

// Serde passes the field by reference.
#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &usize) -> bool {
    *number == 0
}

/// Returns the word for a severity, and its tone.
pub fn word(severity: Severity) -> (&'static str, Tone) {
    match severity {
        Severity::Info => ("info", Tone::Good),
        Severity::Warning => ("warning", Tone::Warning),
        Severity::Error => ("error", Tone::Bad),
    }
}

impl Row {
    fn new(finding: &Finding) -> Self {
        Self {
            kind: finding.kind.code(),
            severity: word(finding.severity).0,
            subject: finding.subject.clone(),
            text: finding.text.clone(),
            next: finding.next.clone(),
        }
    }
}

impl Status {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let found = status::status(&context.pool, &mut *context.store()?)?;
        let body = StatusReport {
            healthy: found.healthy(),
            pool: context.pool.path().to_string_lossy().into_owned(),
            findings: found.findings.iter().map(Row::new).collect(),
            access: found.access,
            disks: found.disks,
            volumes: found.volumes,
            apparatuses: found.serving.1,
            serving: found.serving.0,
            nodes: found.nodes,
            jobs: found.jobs,
            size: found.usage.size,
            free: found.usage.free,
            controller: found.controller.clone(),
        };
        context.out.say(&body, |out| {
            print_text(out, &body, &found);
            Ok(())
        })?;
        Ok(Done::WithProblems(found.to_do()))
    }
}

fn print_text(out: &mut Output, body: &StatusReport, found: &status::Status) {
    let style = out.style();
    let (head, tone) = if body.healthy {
        ("healthy", Tone::Good)
    } else {
        ("needs attention", Tone::Bad)
    };
    let (before, after) = Cell::Word(head, tone).paint(style);
    let bytes = |bytes: u64| {
        if style.bytes {
            bytes.to_string()
        } else {
            size(bytes)
        }
    };
    out.line(&format!(
        "{before}{head}{after}: {} with {} free of {}, {}, {} of {} {}{}, {}",
        count(
            body.disks,
            if body.access.is_cached() {
                "disk"
            } else {
                "direct disk"
            },
        ),
        bytes(body.free.0),
        bytes(body.size.0),
        count(body.volumes, "volume"),
        body.serving,
        count(body.apparatuses, "apparatus"),
        if body.apparatuses == 1 { "serves" } else { "serve" },
        match body.nodes {
            0 => String::new(),
            nodes => format!(" on {}", count(nodes, "node")),
        },
        count(body.jobs, "job"),
    ));
    for finding in &found.findings {
        let (name, tone) = word(finding.severity);
        let (before, after) = Cell::Word(name, tone).paint(style);
        let (subject, text) = (printable(&finding.subject), printable(&finding.text));
        let next = finding
            .next
            .as_deref()
            .map(|next| format!("; next: {}", printable(next)));
        let next = next.unwrap_or_default();
        out.line(&format!("{before}{name:<7}{after}  {subject}: {text}{next}"));
    }
    if let Some(controller) = &body.controller {
        out.line(&format!("controller lock held by: {}", printable(controller)));
    }
}
