//! Turns off ONNX Runtime's telemetry.
//!
//! From 1.29 on the library sends a device id, the path of the executable and the machine's
//! processor and memory when it is initialised, through `HTTPS_PROXY` if that is set, and leaves
//! `Microsoft/DeveloperTools/.onnxruntime` in the user's cache folder.
//! `EnvironmentBuilder::with_telemetry(false)` comes too late for that; only the environment
//! variable is read in time.
#![expect(unsafe_code, reason = "setting an environment variable is unsafe while other threads may read it")]

use std::env;

use super::RuntimeError;

/// The environment variable that ONNX Runtime reads when it is initialised.
const VARIABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Turns telemetry off for this process, whatever the environment says. `main` calls it first.
///
/// # Safety
/// No other thread runs yet: one that reads the environment at the same time could read freed
/// memory.
pub unsafe fn disable_vendor_telemetry() {
    // SAFETY: the caller promises that this is the only thread.
    unsafe { env::set_var(VARIABLE, "1") };
}

/// Returns whether telemetry is off. Checked before the library is loaded: then other threads may
/// run, so that it is too late to set the variable.
pub(super) fn require_disabled() -> Result<(), RuntimeError> {
    if env::var_os(VARIABLE).is_some_and(|value| value == "1") { Ok(()) } else { Err(RuntimeError::VendorTelemetry) }
}
