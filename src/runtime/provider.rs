//! The execution providers of ONNX Runtime, and the choice of one for each stage.

use std::fmt;

use super::RuntimeError;
use crate::bundle::{KvDtype, Manifest, Target};

/// An execution provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The CPU kernels of ONNX Runtime.
    Cpu,
    /// Its CUDA kernels, on an NVIDIA GPU.
    Cuda,
    /// NVIDIA's TensorRT, which compiles a graph for the GPU at hand.
    TensorRt,
}

impl Provider {
    /// Returns whether it needs a GPU.
    #[must_use]
    pub fn is_gpu(self) -> bool {
        self != Self::Cpu
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        })
    }
}

/// The user's choice: one provider for all stages, or for some. The others follow the bundle's
/// target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProviderChoice {
    /// For every stage without its own.
    pub all: Option<Provider>,
    /// For the vision encoder.
    pub vision_encoder: Option<Provider>,
    /// For the Q-Former.
    pub qformer: Option<Provider>,
    /// For the decoder.
    pub decoder: Option<Provider>,
}

/// The provider of each stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Providers {
    /// Of the vision encoder.
    pub vision_encoder: Provider,
    /// Of the Q-Former.
    pub qformer: Provider,
    /// Of the decoder, never TensorRT.
    pub decoder: Provider,
}

impl Providers {
    /// All stages on the CPU.
    pub const CPU: Self = Self { vision_encoder: Provider::Cpu, qformer: Provider::Cpu, decoder: Provider::Cpu };

    /// Chooses the provider of each stage, and checks that the bundle's graphs can run on it. Needs
    /// no GPU.
    ///
    /// # Errors
    /// [`RuntimeError::Unsupported`] with the reason and the remedy.
    pub fn choose(choice: ProviderChoice, manifest: &Manifest) -> Result<Self, RuntimeError> {
        let all = choice.all.unwrap_or(match manifest.target {
            Target::Cpu => Provider::Cpu,
            Target::Cuda => Provider::Cuda,
            Target::TensorRt => Provider::TensorRt,
        });
        // The decoder's attention is an operator of ONNX Runtime, which TensorRT does not support.
        let decoder = if all == Provider::TensorRt { Provider::Cuda } else { all };
        let providers = Self {
            vision_encoder: choice.vision_encoder.unwrap_or(all),
            qformer: choice.qformer.unwrap_or(all),
            decoder: choice.decoder.unwrap_or(decoder),
        };
        providers.check(manifest)?;
        Ok(providers)
    }

    fn check(self, manifest: &Manifest) -> Result<(), RuntimeError> {
        let target = manifest.target;
        let kv_dtype = manifest.decoder.kv_dtype;
        let unsupported =
            |what: String, remedy: &str| Err(RuntimeError::Unsupported { what, remedy: remedy.to_owned() });
        match self.decoder {
            Provider::TensorRt => {
                return unsupported(
                    "TensorRT cannot run the decoder: its attention is ONNX Runtime's own operator".to_owned(),
                    "use cuda for the decoder",
                );
            }
            Provider::Cuda if kv_dtype != KvDtype::Float16 => {
                return unsupported(
                    format!("the decoder's kv_dtype is {kv_dtype}, and CUDA's attention takes float16 only"),
                    "export the bundle with --target cuda or tensorrt, or use the cpu provider",
                );
            }
            Provider::Cuda | Provider::Cpu => {}
        }
        for (stage, provider) in [("vision encoder", self.vision_encoder), ("Q-Former", self.qformer)] {
            if provider == Provider::TensorRt && target != Target::TensorRt {
                return unsupported(
                    format!(
                        "the bundle was exported for target {target}, whose {stage} holds operators that TensorRT does not know"
                    ),
                    "export it with --target tensorrt, or use another provider",
                );
            }
        }
        Ok(())
    }

    /// Returns whether any stage needs a GPU.
    #[must_use]
    pub fn need_gpu(self) -> bool {
        self.stages().into_iter().any(Provider::is_gpu)
    }

    /// Returns whether any stage needs TensorRT.
    #[must_use]
    pub fn need_tensorrt(self) -> bool {
        self.stages().contains(&Provider::TensorRt)
    }

    fn stages(self) -> [Provider; 3] {
        [self.vision_encoder, self.qformer, self.decoder]
    }
}

impl fmt::Display for Providers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { vision_encoder, qformer, decoder } = self;
        if vision_encoder == qformer && qformer == decoder {
            return decoder.fmt(f);
        }
        write!(f, "vision encoder {vision_encoder}, Q-Former {qformer}, decoder {decoder}")
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::bundle::Bundle;

    fn manifest(target: Target, kv_dtype: KvDtype) -> Manifest {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx/blip2-shapes");
        let mut manifest = Bundle::open(&root).unwrap().manifest().clone();
        (manifest.target, manifest.decoder.kv_dtype) = (target, kv_dtype);
        manifest
    }

    fn chosen(choice: ProviderChoice, target: Target) -> String {
        let kv_dtype = if target == Target::Cpu { KvDtype::Float32 } else { KvDtype::Float16 };
        Providers::choose(choice, &manifest(target, kv_dtype))
            .map_or_else(|error| error.to_string(), |providers| providers.to_string())
    }

    #[test]
    fn a_bundle_runs_on_what_it_was_exported_for() {
        let auto = ProviderChoice::default();
        assert_eq!(chosen(auto, Target::Cpu), "cpu");
        assert_eq!(chosen(auto, Target::Cuda), "cuda");
        assert_eq!(chosen(auto, Target::TensorRt), "vision encoder tensorrt, Q-Former tensorrt, decoder cuda");
    }

    #[test]
    fn a_stage_may_run_elsewhere() {
        let choice = ProviderChoice { qformer: Some(Provider::Cpu), ..ProviderChoice::default() };
        assert_eq!(chosen(choice, Target::Cuda), "vision encoder cuda, Q-Former cpu, decoder cuda");
        let choice = ProviderChoice { all: Some(Provider::Cpu), ..ProviderChoice::default() };
        assert_eq!(chosen(choice, Target::TensorRt), "cpu");
        let choice = ProviderChoice { decoder: Some(Provider::Cpu), ..ProviderChoice::default() };
        assert_eq!(chosen(choice, Target::TensorRt), "vision encoder tensorrt, Q-Former tensorrt, decoder cpu");
        let vision = ProviderChoice { vision_encoder: Some(Provider::Cuda), ..ProviderChoice::default() };
        assert_eq!(chosen(vision, Target::Cpu), "vision encoder cuda, Q-Former cpu, decoder cpu");
    }

    #[test]
    fn what_cannot_be_is_refused_with_a_remedy() {
        for (choice, target, parts) in [
            (
                ProviderChoice { all: Some(Provider::Cuda), ..ProviderChoice::default() },
                Target::Cpu,
                ["float16", "--target cuda"],
            ),
            (
                ProviderChoice { all: Some(Provider::TensorRt), ..ProviderChoice::default() },
                Target::Cuda,
                ["vision encoder", "--target tensorrt"],
            ),
            (
                ProviderChoice { qformer: Some(Provider::TensorRt), ..ProviderChoice::default() },
                Target::Cuda,
                ["Q-Former", "--target tensorrt"],
            ),
            (
                ProviderChoice { decoder: Some(Provider::TensorRt), ..ProviderChoice::default() },
                Target::TensorRt,
                ["decoder", "cuda"],
            ),
        ] {
            let text = chosen(choice, target);
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
        }
    }
}
