//! What happens during a trial, told to whoever listens: the record on disk, a progress bar.

use crate::summary::Event;

/// Listens to a trial.
pub trait Observer {
    /// A measured value. Only for the record; nothing is decided from it.
    fn event(&mut self, event: Event);

    /// A phase begins (`search`, `retrain`) with so many steps.
    fn phase(&mut self, name: &str, steps: usize);

    /// A step of the phase is done.
    fn step(&mut self);

    /// One line for people: an epoch has ended.
    fn line(&mut self, text: &str);
}

/// Listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn event(&mut self, _event: Event) {}

    fn phase(&mut self, _name: &str, _steps: usize) {}

    fn step(&mut self) {}

    fn line(&mut self, _text: &str) {}
}

/// Shorthand for an event.
pub fn event(step: usize, epoch: usize, phase: &str, name: impl Into<String>, value: f64) -> Event {
    Event { step, epoch, phase: phase.to_owned(), name: name.into(), value }
}
