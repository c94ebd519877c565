//! The phases of a job, so that a test can stop an engine in each of them.

use super::fake_model::Controls;
use super::setup::{Running, Setup, about};
use crate::engine::{Answer, Pending};

/// Where a job can be when its caller goes, or its time is over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Phase {
    WaitingForEncoder,
    Encoding,
    WaitingForSlot,
    Prefilling,
    Decoding,
}

impl Phase {
    pub(super) const ALL: [Self; 5] =
        [Self::WaitingForEncoder, Self::Encoding, Self::WaitingForSlot, Self::Prefilling, Self::Decoding];

    /// An engine that goes no further than this phase with the next job about the first image.
    /// Perhaps another job has to be before it.
    pub(super) fn start(self) -> (Running, Option<Pending<Answer>>) {
        let running = Setup { slots: 1, ..Setup::default() }.start();
        let Controls { encode, prefill, decode, .. } = &*running.controls;
        match self {
            Self::WaitingForEncoder => {
                encode.hold(0);
                let other = running.submit(about(1, "x"));
                encode.wait_for(1);
                return (running, Some(other));
            }
            Self::WaitingForSlot => {
                decode.hold(0);
                let other = running.submit(about(0, "x"));
                decode.wait_for(1);
                return (running, Some(other));
            }
            Self::Encoding => encode.hold(0),
            Self::Prefilling => prefill.hold(1),
            Self::Decoding => decode.hold(1),
        }
        (running, None)
    }

    /// Waits until the job is there, as far as that can be seen.
    pub(super) fn reach(self, controls: &Controls) {
        match self {
            Self::WaitingForEncoder | Self::WaitingForSlot => {}
            Self::Encoding => controls.encode.wait_for(1),
            Self::Prefilling => controls.prefill.wait_for(2),
            Self::Decoding => controls.decode.wait_for(2),
        }
    }

    /// Runs of the stages until a job is over that ends in this phase, those of the job before it
    /// included.
    pub(super) fn check_runs(self, controls: &Controls) {
        let [encodes, prefills, decodes] =
            [&controls.encode, &controls.prefill, &controls.decode].map(|stage| stage.runs());
        match self {
            Self::WaitingForEncoder => assert_eq!(encodes, 1, "an image that nobody asks about is not encoded"),
            Self::Encoding => assert_eq!((encodes, prefills), (1, 0)),
            Self::WaitingForSlot => assert_eq!(prefills, 1),
            Self::Prefilling => assert_eq!((prefills, decodes), (2, 0)),
            Self::Decoding => assert_eq!(decodes, 2),
        }
    }
}
