//! The system that the command runs statements on.

use std::sync::Arc;

use flern::sql::Statement;

use crate::Settings;
use crate::host::{Answer, Column, Failure, Host, Stats, Step};

/// There is none yet.
pub(crate) enum Engine {}

pub(crate) fn open(_: &Settings) -> Result<Engine, Failure> {
    Err(Failure::new("this build has no engine"))
}

impl Host for Engine {
    fn run<'a>(&'a mut self, _: &str, _: &Statement, _: &'a (dyn Fn(Step) + Sync)) -> Result<Answer<'a>, Failure> {
        match *self {}
    }

    fn stats(&self) -> Stats {
        match *self {}
    }

    fn tables(&self) -> Vec<String> {
        match *self {}
    }

    fn columns(&self, _: &str) -> Result<Vec<Column>, Failure> {
        match *self {}
    }

    fn models(&self) -> Vec<String> {
        match *self {}
    }

    fn canceller(&self) -> Arc<dyn Fn() + Send + Sync> {
        match *self {}
    }
}
