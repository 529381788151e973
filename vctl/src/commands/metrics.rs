//! `vctl metrics`.

use crate::context::Context;
use crate::exit::Done;
use apparatus::error::Result;
use apparatus::ops::metrics;
use clap::Args;
use serde::Serialize;

/// `vctl metrics`
#[derive(Args, Debug)]
pub struct Metrics {}

impl Metrics {
    /// Does it.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Told {
            metrics: String,
        }
        let metrics = metrics::of_pool(&context.pool, &mut *context.store()?)?.finish();
        context.out.say(
            &Told {
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
