//! Which steps of a net of tensors are over, on a device that runs behind the thread that feeds it.
//!
//! A GPU is handed its steps faster than it takes them: the first may still run when the last has been handed over. So a mark is an event on the
//! GPU's stream, behind its step; and once all steps are handed over, the thread waits for one event after the other and tells of each, in the
//! time in which it would have waited for the outputs. No second thread has to look at the events, and none can tell of a batch that is over.
//! On a CPU a step is over when its call returns.

use candle_core::{Device, Result};

/// Steps of less work than this share of the whole have a mark together: on a GPU each costs as much as a small kernel.
pub(super) const SHARE: f32 = 0.125;

/// The marks of one pass.
pub(super) struct Marks<'p> {
    device: &'p Device,
    told: &'p (dyn Fn(f32) + Sync),
    /// Of the work since the last mark.
    share: f32,
    /// What has not been told of, and what it waits for.
    set: Vec<(f32, Event)>,
}

impl<'p> Marks<'p> {
    /// None yet; `told` will hear of each which share of the whole work (0..1) is over since the one before.
    pub(super) fn new(device: &'p Device, told: &'p (dyn Fn(f32) + Sync)) -> Self {
        Marks { device, told, share: 0.0, set: Vec::new() }
    }

    /// A step that is this share of the whole work has been handed over.
    pub(super) fn step(&mut self, share: f32) -> Result<()> {
        self.share += share;
        if self.share >= SHARE {
            let share = std::mem::take(&mut self.share);
            match Event::behind(self.device)? {
                Some(event) => self.set.push((share, event)),
                None => (self.told)(share),
            }
        }
        Ok(())
    }

    /// Waits for what has not been told of yet. Whatever is left after the last mark is over with the outputs.
    pub(super) fn wait(&mut self) -> Result<()> {
        self.set.drain(..).try_for_each(|(share, event)| {
            event.wait()?;
            (self.told)(share);
            Ok(())
        })
    }
}

/// An event on a GPU's stream.
#[cfg(feature = "cuda")]
struct Event(cudarc::driver::CudaEvent);

#[cfg(feature = "cuda")]
impl Event {
    /// Behind all that `device` has been handed; none if that is over.
    fn behind(device: &Device) -> Result<Option<Self>> {
        let Device::Cuda(device) = device else { return Ok(None) };
        let event = device.cuda_stream().record_event(None).map_err(candle_core::Error::wrap)?;
        Ok(Some(Event(event)))
    }

    /// Until all before it is over.
    fn wait(&self) -> Result<()> {
        self.0.synchronize().map_err(candle_core::Error::wrap)
    }
}

/// There is none without CUDA.
#[cfg(not(feature = "cuda"))]
enum Event {}

#[cfg(not(feature = "cuda"))]
impl Event {
    #[expect(clippy::unnecessary_wraps, reason = "a GPU may refuse")]
    const fn behind(_: &Device) -> Result<Option<Self>> {
        Ok(None)
    }

    const fn wait(&self) -> Result<()> {
        match *self {}
    }
}
