//! The assignment of stages to devices: a provider for each stage, and the GPU if a provider needs
//! it.

use std::path::PathBuf;

use crate::bundle::{Manifest, Precision};
use crate::runtime::{CudaSettings, Gpu, Provider, Providers, RuntimeError, StageProvider, TensorRtSettings};

/// The most images that a GPU encodes in one run: as many as the engine encodes ahead of the
/// decoder (ADR 10).
const IMAGES_AT_ONCE: usize = 4;

/// The providers of the stages, and the GPU if one of them needs it.
#[derive(Debug, Clone)]
pub struct Devices {
    /// The provider of each stage.
    pub providers: Providers,
    /// The GPU, if a stage needs it.
    pub gpu: Option<GpuSettings>,
}

/// A GPU, and the limits of the sessions on it.
#[derive(Debug, Clone)]
pub struct GpuSettings {
    /// The GPU.
    pub gpu: Gpu,
    /// The most bytes of its memory that a session may take for weights and runs.
    pub memory_limit: usize,
    /// The folder of TensorRT's engines and timings, for this GPU, these versions and this bundle
    /// only.
    pub tensorrt_cache: PathBuf,
}

impl Devices {
    /// Everything on the CPU.
    pub const CPU: Self = Self { providers: Providers::CPU, gpu: None };

    /// Returns the most images of a run of the image stages. On the CPU a batch takes as long as
    /// its images one by one.
    pub(super) fn images_at_once(&self) -> usize {
        let Providers { vision_encoder, qformer, .. } = self.providers;
        if vision_encoder.is_gpu() && qformer.is_gpu() { IMAGES_AT_ONCE } else { 1 }
    }

    pub(super) fn vision_encoder(&self, manifest: &Manifest) -> Result<StageProvider, RuntimeError> {
        let image = &manifest.image;
        let stage = &manifest.vision_encoder;
        let dimensions = vec![3, image.height as usize, image.width as usize];
        let engine = (manifest.precision.vision_encoder, &*stage.inputs.pixel_values, dimensions);
        self.stage(self.providers.vision_encoder, engine)
    }

    pub(super) fn qformer(&self, manifest: &Manifest) -> Result<StageProvider, RuntimeError> {
        let image = &manifest.vision_encoder;
        let stage = &manifest.qformer;
        let dimensions = vec![image.num_tokens, image.hidden_size];
        let engine = (manifest.precision.qformer, &*stage.inputs.image_embeds, dimensions);
        self.stage(self.providers.qformer, engine)
    }

    pub(super) fn decoder(&self) -> Result<StageProvider, RuntimeError> {
        match self.providers.decoder {
            Provider::Cpu => Ok(StageProvider::Cpu),
            // The choice of providers has rejected TensorRT already.
            Provider::Cuda | Provider::TensorRt => Ok(StageProvider::Cuda(self.cuda()?.0)),
        }
    }

    fn stage(
        &self,
        provider: Provider,
        (precision, name, dimensions): (Precision, &str, Vec<usize>),
    ) -> Result<StageProvider, RuntimeError> {
        Ok(match provider {
            Provider::Cpu => StageProvider::Cpu,
            Provider::Cuda => StageProvider::Cuda(self.cuda()?.0),
            Provider::TensorRt => {
                let (cuda, cache) = self.cuda()?;
                StageProvider::TensorRt(
                    cuda,
                    TensorRtSettings {
                        cache,
                        is_fp16: precision == Precision::Fp16,
                        input: (name.to_owned(), dimensions),
                        most: self.images_at_once(),
                    },
                )
            }
        })
    }

    fn cuda(&self) -> Result<(CudaSettings, PathBuf), RuntimeError> {
        let Some(GpuSettings { gpu, memory_limit, tensorrt_cache }) = &self.gpu else {
            return Err(RuntimeError::Unsupported {
                what: format!("providers {} need a GPU, and none was opened", self.providers),
                remedy: "use the provider cpu".to_owned(),
            });
        };
        Ok((CudaSettings { gpu: gpu.clone(), memory_limit: *memory_limit }, tensorrt_cache.clone()))
    }
}
