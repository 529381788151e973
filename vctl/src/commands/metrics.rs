//! `vctl metrics`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::admin::metrics;
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;

/// `vctl metrics`
#[derive(Args, Debug)]
pub struct Metrics {}

impl Metrics {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct MetricsReport {
            metrics: String,
        }
        let metrics = metrics::of_pool(&context.pool, &mut *context.store()?)?.finish();
        context.out.say(
            &MetricsReport {
                metrics: metrics.clone(),
            },
            |out| {
                out.text(&metrics);
                Ok(())
            },
        )?;
        Ok(Done::Plainly)
    }
}
