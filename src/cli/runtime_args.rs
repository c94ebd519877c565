//! The flags that every command shares which runs the model.

use std::env;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

use super::seconds::Seconds;
use crate::engine::EngineLimits;
use crate::image::ImageLimits;
use crate::launch::{GpuChoice, Settings};
use crate::runtime::{CpuSettings, Provider, ProviderChoice};

const MIB: usize = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ProviderArg {
    /// The provider that the bundle was exported for (`--target`)
    Auto,
    /// The CPU kernels of ONNX Runtime
    Cpu,
    /// Its CUDA kernels, on an NVIDIA GPU
    Cuda,
    /// TensorRT for vision encoder and Q-Former, CUDA for the decoder
    Tensorrt,
}

impl ProviderArg {
    fn choice(self) -> Option<Provider> {
        match self {
            Self::Auto => None,
            Self::Cpu => Some(Provider::Cpu),
            Self::Cuda => Some(Provider::Cuda),
            Self::Tensorrt => Some(Provider::TensorRt),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ImageProviderArg {
    /// The CPU kernels of ONNX Runtime
    Cpu,
    /// Its CUDA kernels, on an NVIDIA GPU
    Cuda,
    /// TensorRT, which compiles the graph for the GPU at hand
    Tensorrt,
}

impl From<ImageProviderArg> for Provider {
    fn from(provider: ImageProviderArg) -> Self {
        match provider {
            ImageProviderArg::Cpu => Self::Cpu,
            ImageProviderArg::Cuda => Self::Cuda,
            ImageProviderArg::Tensorrt => Self::TensorRt,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DecoderProviderArg {
    /// The CPU kernels of ONNX Runtime
    Cpu,
    /// Its CUDA kernels, on an NVIDIA GPU
    Cuda,
}

impl From<DecoderProviderArg> for Provider {
    fn from(provider: DecoderProviderArg) -> Self {
        match provider {
            DecoderProviderArg::Cpu => Self::Cpu,
            DecoderProviderArg::Cuda => Self::Cuda,
        }
    }
}

/// The flags of every command that runs the model, as typed.
#[derive(Debug, Args)]
pub(super) struct RuntimeArgs {
    /// Bundle to load: a folder that holds exactly one manifest.json, at any depth
    /// [default: AZUREML_MODEL_DIR, else onnx/blip2-shapes]
    #[arg(long, value_name = "DIR", env = "BLIP2_MODEL", verbatim_doc_comment)]
    model: Option<PathBuf>,

    /// ONNX Runtime's shared library, 1.24 or newer
    /// [default: .ort/libonnxruntime.so, else libonnxruntime.so beside the executable]
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH", verbatim_doc_comment)]
    ort_library: Option<PathBuf>,

    /// Execution provider to run the graphs with; if it cannot, the start fails
    #[arg(long, value_enum, env = "BLIP2_PROVIDER", default_value = "auto")]
    provider: ProviderArg,

    /// Execution provider of the vision encoder [default: as --provider]
    #[arg(long, value_enum, env = "BLIP2_VISION_PROVIDER")]
    vision_provider: Option<ImageProviderArg>,

    /// Execution provider of the Q-Former [default: as --provider]
    #[arg(long, value_enum, env = "BLIP2_QFORMER_PROVIDER")]
    qformer_provider: Option<ImageProviderArg>,

    /// Execution provider of the decoder [default: as --provider, but cuda for tensorrt]
    #[arg(long, value_enum, env = "BLIP2_DECODER_PROVIDER")]
    decoder_provider: Option<DecoderProviderArg>,

    /// GPU to use, as CUDA counts: the fastest first, or with CUDA_DEVICE_ORDER=PCI_BUS_ID as nvidia-smi does
    #[arg(long, value_name = "N", env = "BLIP2_DEVICE_ID", default_value = "0")]
    device_id: usize,

    /// MiB of GPU memory to plan with, of which a tenth stays free [default: what is free]
    #[arg(long, value_name = "MIB", env = "BLIP2_GPU_MEMORY_MIB")]
    gpu_memory_mib: Option<u64>,

    /// Folder where TensorRT keeps the engines that it builds [default: blip2/tensorrt in the user's cache folder]
    #[arg(long, value_name = "DIR", env = "BLIP2_TENSORRT_CACHE")]
    tensorrt_cache: Option<PathBuf>,

    /// Threads of ONNX Runtime [default: the cores that this process may use]
    #[arg(long, value_name = "N", env = "BLIP2_THREADS")]
    threads: Option<NonZeroUsize>,

    /// Whether these threads wait for the next operator for a moment before they sleep
    #[arg(long, value_name = "BOOL", env = "BLIP2_SPIN", default_value_t = true, action = ArgAction::Set)]
    spin: bool,

    /// Processors of each thread but the first, counted from 1, as in `2;3,4` [default: the system decides]
    #[arg(long, value_name = "LIST", env = "BLIP2_THREAD_AFFINITY")]
    thread_affinity: Option<String>,

    /// Whether a run on the CPU keeps its memory for the next one
    #[arg(long, value_name = "BOOL", env = "BLIP2_MEMORY_ARENA", default_value_t = true, action = ArgAction::Set)]
    memory_arena: bool,

    /// Rows decoded together, a beam being a row [default: as many as memory is there for, up to 16]
    #[arg(long, value_name = "N", env = "BLIP2_SLOTS")]
    slots: Option<NonZeroUsize>,

    /// Positions of all rows together, which is what KV memory is for [default: what free memory holds]
    #[arg(long, value_name = "N", env = "BLIP2_KV_TOKENS")]
    kv_tokens: Option<NonZeroUsize>,

    /// Positions of a row: image, prompt and new tokens [default: as many as the model knows]
    #[arg(long, value_name = "N", env = "BLIP2_MAX_LEN")]
    max_len: Option<NonZeroUsize>,

    /// Rows that may wait or run at once; requests beyond are answered 429
    #[arg(long, value_name = "N", env = "BLIP2_QUEUE_ROWS", default_value_t = non_zero(EngineLimits::default().queue_rows))]
    queue_rows: NonZeroUsize,

    /// Positions of prompts fed between two decode steps, about; more let running answers wait longer
    #[arg(long, value_name = "N", env = "BLIP2_PREFILL_POSITIONS", default_value_t = non_zero(EngineLimits::default().prefill_positions))]
    prefill_positions: NonZeroUsize,

    /// MiB of encoded images to keep, so that an image asked about again is not encoded again; 0 keeps none
    #[arg(long, value_name = "MIB", env = "BLIP2_IMAGE_CACHE_MIB", default_value_t = EngineLimits::default().image_cache_bytes / MIB)]
    image_cache_mib: usize,

    /// MiB of keys and values to keep of images, so that a further question feeds its own tokens only; 0 keeps none
    #[arg(long, value_name = "MIB", env = "BLIP2_KV_PREFIX_CACHE_MIB", default_value_t = EngineLimits::default().kv_prefix_cache_bytes / MIB)]
    kv_prefix_cache_mib: usize,

    /// MiB of encoded images that clients store under an id
    #[arg(long, value_name = "MIB", env = "BLIP2_STORED_IMAGES_MIB", default_value_t = EngineLimits::default().stored_image_bytes / MIB)]
    stored_images_mib: usize,

    /// Seconds that an answer may take; one that is not ready by then is answered 504
    #[arg(long, value_name = "S", env = "BLIP2_TIMEOUT_S", default_value_t = Seconds(EngineLimits::default().timeout))]
    timeout_s: Seconds,

    /// Largest image file in bytes
    #[arg(long, value_name = "BYTES", env = "BLIP2_MAX_IMAGE_BYTES", default_value_t = ImageLimits::DEFAULT_MAX_BYTES)]
    max_image_bytes: usize,

    /// Largest image in pixels, as its header declares them
    #[arg(long, value_name = "PIXELS", env = "BLIP2_MAX_IMAGE_PIXELS", default_value_t = ImageLimits::DEFAULT_MAX_PIXELS)]
    max_image_pixels: u64,
}

impl RuntimeArgs {
    /// Fills in what was left out.
    pub(super) fn settings(&self) -> Settings {
        let default = Settings::default();
        let model = self.model.clone().or_else(azure_model_dir);
        Settings {
            model: model.unwrap_or(default.model),
            ort_library: self.ort_library.clone().unwrap_or(default.ort_library),
            providers: ProviderChoice {
                all: self.provider.choice(),
                vision_encoder: self.vision_provider.map(Provider::from),
                qformer: self.qformer_provider.map(Provider::from),
                decoder: self.decoder_provider.map(Provider::from),
            },
            gpu: GpuChoice {
                device_id: self.device_id,
                memory: self.gpu_memory_mib.map(|mib| mib.saturating_mul(MIB as u64)),
                tensorrt_cache: self.tensorrt_cache.clone().unwrap_or(default.gpu.tensorrt_cache),
            },
            cpu: CpuSettings {
                threads: self.threads.unwrap_or(default.cpu.threads),
                spin: self.spin,
                affinity: self.thread_affinity.clone(),
                arena: self.memory_arena,
            },
            slots: self.slots,
            kv_tokens: self.kv_tokens,
            max_len: self.max_len,
            engine: EngineLimits {
                queue_rows: self.queue_rows.get(),
                prefill_positions: self.prefill_positions.get(),
                kv_prefix_cache_bytes: self.kv_prefix_cache_mib.saturating_mul(MIB),
                image_cache_bytes: self.image_cache_mib.saturating_mul(MIB),
                stored_image_bytes: self.stored_images_mib.saturating_mul(MIB),
                timeout: self.timeout_s.0,
                ..default.engine
            },
            image: ImageLimits { max_bytes: self.max_image_bytes, max_pixels: self.max_image_pixels },
        }
    }
}

fn azure_model_dir() -> Option<PathBuf> {
    env::var_os("AZUREML_MODEL_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
}

fn non_zero(number: usize) -> NonZeroUsize {
    NonZeroUsize::new(number).unwrap_or(NonZeroUsize::MIN)
}
