//! The conditions of a measurement: processor, threads, bundle, slots; and the memory of the process.

use std::env;
use std::path::Path;

use serde::Serialize;
use sysinfo::{CpuRefreshKind, RefreshKind, System};

use crate::bundle::{Manifest, Precisions};
use crate::engine::DecoderLimits;
use crate::launch::Settings;
use crate::memory::{MemoryPlan, peak_resident_bytes, resident_bytes};
use crate::runtime::Runtime;

/// The bundle that is measured, and the machine.
#[derive(Debug, Serialize)]
pub(super) struct Machine {
    pub(super) processor: String,
    pub(super) threads: usize,
    /// The file of ONNX Runtime, whose name says its version.
    pub(super) library: String,
    /// Version and build flags, as the library reports them.
    pub(super) build: &'static str,
    pub(super) bundle: String,
    pub(super) precision: Precisions,
    pub(super) slots: usize,
    pub(super) max_len: usize,
    pub(super) kv_tokens: usize,
}

impl Machine {
    pub(super) fn new(manifest: &Manifest, runtime: &Runtime, settings: &Settings, limits: DecoderLimits) -> Self {
        let DecoderLimits { slots, max_len, kv_tokens, .. } = limits;
        Self {
            processor: processor(),
            threads: settings.cpu.threads.get(),
            library: file_name(&settings.ort_library),
            build: runtime.version().trim_start_matches("ORT Build Info: "),
            bundle: manifest.name.clone(),
            precision: manifest.precision,
            slots,
            max_len,
            kv_tokens,
        }
    }
}

/// Of the file that links lead to.
fn file_name(path: &Path) -> String {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// The processor's name; where the system does not tell it, its kind.
fn processor() -> String {
    let system = System::new_with_specifics(RefreshKind::nothing().with_cpu(CpuRefreshKind::nothing()));
    let name = system.cpus().first().map_or("", |cpu| cpu.brand().trim());
    if name.is_empty() { env::consts::ARCH.to_owned() } else { name.to_owned() }
}

/// Memory of the process, and what was planned for when every cache is full.
#[derive(Debug, Serialize)]
pub(super) struct Memory {
    /// `None` where the system does not tell, as for the next.
    pub(super) resident_bytes: Option<u64>,
    pub(super) peak_resident_bytes: Option<u64>,
    pub(super) planned_bytes: u64,
    pub(super) planned_weights_bytes: u64,
    pub(super) planned_kv_cache_bytes: u64,
}

impl Memory {
    pub(super) fn now(plan: &MemoryPlan) -> Self {
        Self {
            resident_bytes: resident_bytes(),
            peak_resident_bytes: peak_resident_bytes(),
            planned_bytes: plan.total,
            planned_weights_bytes: plan.weights,
            planned_kv_cache_bytes: plan.kv_bytes,
        }
    }
}
