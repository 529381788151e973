//! `vctl pool join`.

use super::create::Row;
use crate::arguments;
use crate::commands::node::options::NodeOptions;
use crate::context::Context;
use crate::exit::Done;
use apparatus::admin;
use apparatus::model::error::Result;
use apparatus::model::names::Name;
use apparatus::store::{EtcdPlace, Place};
use clap::Args;
use serde::Serialize;
use std::path::PathBuf;
use uuid::Uuid;

/// `vctl pool join`
#[derive(Args, Debug)]
pub struct Join {
    /// The etcd cluster that has the pool's metadata: etcd://HOST:PORT[,HOST:PORT...]
    url: String,
    /// The pool, as vctl pool show names it on another node
    #[arg(long)]
    uuid: Uuid,
    /// The name of this machine among those of the pool
    #[arg(long, value_name = "NODE", value_parser = arguments::node)]
    node: Name,
    /// Directory with ca.pem, cert.pem and key.pem, for an etcd that requires TLS
    #[arg(long, value_name = "DIR")]
    store_tls: Option<PathBuf>,
    #[command(flatten)]
    options: NodeOptions,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

impl Join {
    /// Runs the command.
    pub fn run(self, context: &mut Context) -> Result<Done> {
        #[derive(Serialize)]
        struct Joined {
            pool: Row,
        }
        let place = self.place()?;
        if self.dry_run {
            return would_join(context, &place);
        }
        admin::join::join(&context.pool, &place)?;
        let body = Joined {
            pool: Row::load(context)?,
        };
        context.out.say(&body, |out| {
            let (pool, node) = (context.pool.display(), &self.node);
            out.line(&format!("pool {pool}: this machine is its node {node}"));
            Ok(())
        })?;
        Ok(Done::Plainly)
    }

    fn place(&self) -> Result<Place> {
        let tls = self.store_tls.as_deref();
        let absolute = tls.map(admin::place::absolute).transpose()?;
        Ok(Place {
            pool: self.uuid,
            etcd: EtcdPlace::parse(&self.url, absolute)?,
            node: Some(self.options.of(&self.node, tls)?),
            transit: None,
        })
    }
}

/// Checks what can be checked without a directory, and says what would be done.
fn would_join(context: &mut Context, place: &Place) -> Result<Done> {
    #[derive(Serialize)]
    struct WouldJoin {
        dry_run: bool,
        path: String,
        uuid: Uuid,
    }
    admin::pool::check_absent(&context.pool)?;
    let body = WouldJoin {
        dry_run: true,
        path: context.pool.path().to_string_lossy().into_owned(),
        uuid: place.pool,
    };
    context.out.say(&body, |out| {
        out.line(&format!(
            "would make {} a directory of pool {}",
            body.path, body.uuid
        ));
        Ok(())
    })?;
    Ok(Done::Plainly)
}
