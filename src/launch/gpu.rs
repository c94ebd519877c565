//! A GPU on its way to the sessions: opened and looked at before anything is loaded, so that what is missing is said at once.

use std::fs;
use std::path::PathBuf;

use super::Settings;
use crate::bundle::Manifest;
use crate::memory::{MemoryKind, MemoryPlan};
use crate::model::GpuSettings;
use crate::runtime::{Gpu, GpuLibraries, Providers, Runtime, RuntimeError};

/// A GPU that can be used, with the libraries to do so.
pub(super) struct OpenedGpu {
    gpu: Gpu,
    libraries: GpuLibraries,
    /// Bytes of its memory that may be used.
    pub(super) bytes: u64,
}

impl OpenedGpu {
    pub(super) fn open(settings: &Settings, providers: Providers) -> Result<Self, RuntimeError> {
        let gpu = Gpu::open(settings.gpu.device_id)?;
        let libraries = GpuLibraries::open(&settings.ort_library, providers.need_tensorrt())?;
        let free = gpu.free_bytes()?;
        tracing::info!(
            gpu = gpu.name(),
            device_id = gpu.id(),
            free_mib = free >> 20,
            driver_cuda = gpu.driver_cuda(),
            libraries = %libraries,
            "GPU opened"
        );
        let bytes = settings.gpu.memory.map_or(free, |asked| asked.min(free));
        Ok(Self { gpu, libraries, bytes })
    }

    /// Builds the settings of the sessions on this GPU.
    pub(super) fn settings(
        self,
        settings: &Settings,
        manifest: &Manifest,
        plan: &MemoryPlan,
        runtime: &Runtime,
    ) -> Result<GpuSettings, RuntimeError> {
        let memory_limit = memory_limit(self.bytes, plan);
        let tensorrt_cache = match self.libraries.tensorrt() {
            None => PathBuf::new(), // nobody asks for it
            Some(version) => {
                let folder = cache_name(self.gpu.name(), version, runtime.build_id(), &manifest.fingerprint());
                let path = settings.gpu.tensorrt_cache.join(folder);
                fs::create_dir_all(&path).map_err(|source| RuntimeError::EngineCache { path: path.clone(), source })?;
                tracing::info!(path = %path.display(), "TensorRT keeps its engines here");
                path
            }
        };
        Ok(GpuSettings { gpu: self.gpu, memory_limit, tensorrt_cache })
    }
}

/// Computes the bytes left for the sessions after the caches that lie on the GPU. Never 0, which ONNX Runtime reads as no limit.
fn memory_limit(bytes: u64, plan: &MemoryPlan) -> usize {
    let caches = match plan.kind {
        MemoryKind::Host => 0,
        MemoryKind::Gpu => plan.kv_bytes.saturating_add(plan.kv_prefix_cache).saturating_add(plan.encoded_images),
    };
    usize::try_from(bytes.saturating_sub(caches).max(1)).unwrap_or(usize::MAX)
}

/// Engines are good for one kind of GPU, one TensorRT, one ONNX Runtime and one bundle; anything else gets another folder.
fn cache_name(gpu: &str, tensorrt: &str, onnxruntime: &str, bundle: &str) -> String {
    let plain = |name: &str| {
        let words = name.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '.');
        words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-").to_lowercase()
    };
    format!("{}_tensorrt-{}_onnxruntime-{}_{}", plain(gpu), plain(tensorrt), plain(onnxruntime), plain(bundle))
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::memory::MemoryNeeds;

    #[test]
    fn caches_on_the_host_leave_the_memory_of_the_gpu_to_the_sessions() {
        let mut plan = MemoryNeeds {
            kind: MemoryKind::Gpu,
            available: 1000,
            weights: 100,
            working: 10,
            encoded_images: 20,
            kv_prefix_cache: 30,
            position_bytes: 2,
            max_len: NonZeroUsize::new(50).unwrap(),
            slots: NonZeroUsize::new(4),
            kv_tokens: None,
        }
        .plan()
        .unwrap();
        assert_eq!(memory_limit(1000, &plan), 1000 - 20 - 30 - 4 * 50 * 2);
        assert_eq!(memory_limit(100, &plan), 1);
        plan.kind = MemoryKind::Host;
        assert_eq!(memory_limit(1000, &plan), 1000);
    }

    #[test]
    fn a_folder_of_engines_says_what_they_are_for() {
        assert_eq!(
            cache_name("NVIDIA H100 80GB HBM3", "10.13.2", "1.31.1", "00ff"),
            "nvidia-h100-80gb-hbm3_tensorrt-10.13.2_onnxruntime-1.31.1_00ff"
        );
        assert_eq!(cache_name("../x", "1", "2", "3"), "..-x_tensorrt-1_onnxruntime-2_3");
    }
}
