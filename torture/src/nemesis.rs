//! Faults on a schedule.

use crate::admin::Admin;
use crate::clients::Clients;
use crate::plan::{APPARATUSES, Fault, Kind};
use crate::report::{Failure, Report};
use crate::site::Site;
use crate::weather::Weather;
use rustix::process::Signal;
use std::ops::Range;

/// Only a debug build of the apparatus has disks that fail, and it was built as this program was.
pub(crate) const DISKS_CAN_FAIL: bool = cfg!(debug_assertions);

/// Causes faults and ends them.
pub(crate) struct Nemesis<'a> {
    pub(crate) site: &'a Site,
    pub(crate) weather: &'a Weather,
    pub(crate) report: &'a Report,
}

impl Nemesis<'_> {
    /// Causes a fault, waits as long as it lasts, and ends it.
    pub(crate) fn strike(&self, fault: Fault, wait: &dyn Fn(u64)) {
        if !self.is_possible(fault.kind) {
            return;
        }
        self.report.fault(fault.kind.label());
        self.weather.begin(fault.kind.label());
        let clients = self.cause(fault.kind, fault.lasts);
        wait(fault.lasts);
        drop(clients);
        self.end(fault.kind);
        self.weather.end();
        if self.weather.failing.times() > 0 {
            self.rescue();
        }
    }

    fn is_possible(&self, kind: Kind) -> bool {
        match kind {
            Kind::FullDisk | Kind::FullPool => self.site.own_filesystems,
            Kind::Disk { .. } => DISKS_CAN_FAIL,
            _ => true,
        }
    }

    /// Causes a fault. Returns the connections that are part of it.
    fn cause(&self, kind: Kind, seed: u64) -> Option<Clients> {
        match kind {
            Kind::Clients { apparatus } => return Some(Clients::connect(&self.site.socket(apparatus), seed)),
            Kind::Stop { apparatus } => self.site.signal(apparatus, Signal::STOP),
            Kind::Kill { .. } | Kind::KillAll => self.kill(struck(kind)),
            Kind::Restart { apparatus } => self.ask_to_end(apparatus),
            Kind::FullDisk => {
                self.weather.full.open();
                self.site.fill("small");
            }
            Kind::FullPool => self.site.fill("state"),
            Kind::Disk { disk, how } => {
                if how.is_error() {
                    self.weather.failing.open();
                }
                self.noted(self.site.break_disk(Some((disk, how))));
            }
        }
        None
    }

    fn end(&self, kind: Kind) {
        let now = || self.weather.now();
        match kind {
            Kind::Stop { apparatus } => self.site.signal(apparatus, Signal::CONT),
            Kind::Kill { .. } | Kind::KillAll | Kind::Restart { .. } => {
                for apparatus in struck(kind) {
                    self.noted(self.site.start(apparatus));
                    self.weather.down[apparatus].close(now());
                }
            }
            Kind::FullDisk => {
                self.site.unfill("small");
                self.weather.full.close(now());
            }
            Kind::FullPool => self.site.unfill("state"),
            Kind::Clients { .. } => {}
            Kind::Disk { how, .. } => {
                self.noted(self.site.break_disk(None));
                if how.is_error() {
                    self.rescue();
                    self.weather.failing.close(now());
                }
            }
        }
    }

    fn rescue(&self) {
        let (site, report) = (self.site, self.report);
        Admin { site, report }.rescue();
    }

    fn kill(&self, apparatuses: Range<usize>) {
        for apparatus in apparatuses {
            self.weather.down[apparatus].open();
            if !self.site.kill(apparatus) {
                let what = format!("apparatus a{apparatus} was killed and is still there");
                self.report.fail(Failure::Hung, &what);
            }
        }
    }

    fn ask_to_end(&self, apparatus: usize) {
        self.weather.down[apparatus].open();
        let name = format!("a{apparatus}");
        match self.site.must(&["apparatus", "stop", &name, "--cut-off-users"]) {
            Ok(_) => self.noted(self.site.ended(apparatus)),
            Err(error) => {
                self.noted::<()>(Err(error));
                self.kill(apparatus..apparatus + 1);
                self.weather.down[apparatus].close(self.weather.now());
            }
        }
    }

    /// Ends whatever a fault may have left behind, and reports apparatuses that have died by themselves.
    pub(crate) fn heal(&self) {
        self.site.unfill("small");
        self.site.unfill("state");
        self.noted(self.site.break_disk(None));
        for apparatus in 0..APPARATUSES {
            self.site.signal(apparatus, Signal::CONT);
            if let Some(status) = self.site.died(apparatus) {
                let log = self.site.log(apparatus);
                let what = format!("apparatus a{apparatus} has ended by itself with {status}\n{log}");
                self.report.fail(Failure::Broken, &what);
            }
            self.noted(self.site.start(apparatus));
        }
    }

    fn noted<T>(&self, result: Result<T, String>) {
        if let Err(error) = result {
            self.report.fail(Failure::Broken, &error);
        }
    }
}

/// Returns the apparatuses that a fault ends.
fn struck(kind: Kind) -> Range<usize> {
    match kind {
        Kind::Kill { apparatus } | Kind::Restart { apparatus } => apparatus..apparatus + 1,
        Kind::KillAll => 0..APPARATUSES,
        _ => 0..0,
    }
}
