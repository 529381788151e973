//! `vctl volume attach`, `detach`.

use crate::context::Context;
use crate::exit::Done;
use crate::output::note;
use apparatus::admin::attach;
use apparatus::model::error::Result;
use clap::Args;
use serde::Serialize;

/// `vctl volume attach`
#[derive(Args, Debug)]
pub struct Attach {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Through the mount of this apparatus; by default of any that serves
    #[arg(long)]
    apparatus: Option<String>,
    /// Refuse writes to the loop device
    #[arg(long)]
    read_only: bool,
    /// Let the kernel scan it for partitions
    #[arg(long)]
    partitions: bool,
    /// Say what would be attached, and attach nothing
    #[arg(long)]
    dry_run: bool,
}

#[derive(Serialize)]
struct Attached {
    volume: String,
    apparatus: String,
    file: String,
    device: Option<String>,
    direct_io: bool,
    /// False when the device existed already.
    changed: bool,
    dry_run: bool,
}

impl Attach {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        let place = attach::place(
            &context.pool,
            &mut *context.store()?,
            &self.volume,
            self.apparatus.as_deref(),
        )?;
        let options = attach::Options {
            read_only: self.read_only,
            partitions: self.partitions,
        };
        let (pool, mut store) = (&context.pool, context.store()?);
        let through = self.apparatus.as_deref();
        let device = if self.dry_run {
            attach::present(pool, &mut *store, &place, through, options)?
        } else {
            Some(attach::attach(pool, &mut *store, &place, through, options)?)
        };
        if let Some(warning) = device.as_ref().and_then(|device| device.warning.as_deref()) {
            note(&format!("vctl: warning: {warning}"));
        }
        let through = device.as_ref().and_then(|device| device.apparatus.clone());
        let body = Attached {
            volume: self.volume,
            apparatus: through.unwrap_or(place.apparatus).to_string(),
            changed: device.as_ref().is_some_and(|device| device.is_new),
            file: place.file.to_string_lossy().into_owned(),
            direct_io: device.as_ref().is_some_and(|device| device.direct_io),
            device: device.map(|device| device.path.to_string_lossy().into_owned()),
            dry_run: self.dry_run,
        };
        context.out.say(&body, |out| {
            match &body.device {
                Some(device) if body.dry_run => out.line(&format!("is attached already as {device}")),
                Some(device) => out.line(device),
                None => out.line(&format!("would attach {}", body.file)),
            }
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}

/// `vctl volume detach`
#[derive(Args, Debug)]
pub struct Detach {
    /// Its name
    #[arg(value_name = "VOLUME")]
    volume: String,
    /// Say what would be detached, and detach nothing
    #[arg(long)]
    dry_run: bool,
}

impl Detach {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Detached {
            volume: String,
            devices: Vec<String>,
            dry_run: bool,
        }
        let devices = attach::devices(&context.pool, &mut *context.store()?, &self.volume)?;
        if !self.dry_run {
            attach::detach(&self.volume, &devices)?;
        }
        let devices = devices
            .iter()
            .map(|device| device.to_string_lossy().into_owned())
            .collect();
        let body = Detached {
            volume: self.volume,
            devices,
            dry_run: self.dry_run,
        };
        let verb = if self.dry_run {
            "would be detached"
        } else {
            "detached"
        };
        context.out.say(&body, |out| {
            body.devices
                .iter()
                .for_each(|device| out.line(&format!("{device}: {verb}")));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }
}
