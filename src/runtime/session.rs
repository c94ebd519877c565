//! Opens graphs on their provider, and checks them against the signature of the manifest. A wrong
//! file, or a provider that cannot run it, fails at start.

use std::path::{Path, PathBuf};
use std::time::Instant;

use ort::ep::cuda::ConvAlgorithmSearch;
use ort::ep::{self, ArbitrarilyConfigurableExecutionProvider as _, ArenaExtendStrategy, ExecutionProviderDispatch};
use ort::session::Session;
use ort::value::{Outlet, TensorElementType, ValueType};

use super::binding::TensorName;
use super::buffer::Place;
use super::gpu::Gpu;
use super::placement::{Placement, TAKE_NOTES};
use super::{Provider, Runtime, RuntimeError};

/// An expected tensor of a graph: name, element type, and dimensions, `None` for variable ones.
#[derive(Debug)]
pub(crate) struct Expected {
    pub(crate) name: String,
    pub(crate) element: TensorElementType,
    pub(crate) shape: Vec<Option<usize>>,
}

impl Expected {
    pub(crate) fn new(name: &str, element: TensorElementType, shape: &[Option<usize>]) -> Self {
        Self { name: name.to_owned(), element, shape: shape.to_vec() }
    }

    fn describe(&self) -> String {
        let dims: Vec<_> = self.shape.iter().map(|dim| dim.map_or("?".into(), |n| n.to_string())).collect();
        format!("{} {} [{}]", self.name, self.element, dims.join(", "))
    }

    /// Returns whether a graph's tensor agrees. The graph may leave a known dimension open, but
    /// must not fix a variable one.
    fn fits(&self, outlet: &Outlet) -> bool {
        let ValueType::Tensor { ty, shape, .. } = outlet.dtype() else { return false };
        *ty == self.element
            && shape.len() == self.shape.len()
            && shape
                .iter()
                .zip(&self.shape)
                .all(|(found, wanted)| *found == -1 || *wanted == usize::try_from(*found).ok())
    }
}

/// The provider of a stage, with its settings.
#[derive(Debug, Clone)]
pub(crate) enum StageProvider {
    Cpu,
    Cuda(CudaSettings),
    TensorRt(CudaSettings, TensorRtSettings),
}

/// The settings of every session on a GPU.
#[derive(Debug, Clone)]
pub(crate) struct CudaSettings {
    pub(crate) gpu: Gpu,
    /// The most bytes of the GPU's memory for the weights and runs of this session on CUDA. Each
    /// session has its own limit. Only the workspace limits the memory of a TensorRT engine.
    pub(crate) memory_limit: usize,
}

/// The settings with which TensorRT builds an engine once, and finds it again.
#[derive(Debug, Clone)]
pub(crate) struct TensorRtSettings {
    /// The folder of engines and timings, for this GPU, these versions and this bundle only.
    pub(crate) cache: PathBuf,
    /// Whether the graph is in f16. An f32 graph must be computed in f32.
    pub(crate) is_fp16: bool,
    /// The input, and its dimensions after the number of images.
    pub(crate) input: (String, Vec<usize>),
    /// The most images of a run.
    pub(crate) most: usize,
}

impl StageProvider {
    fn provider(&self) -> Provider {
        match self {
            Self::Cpu => Provider::Cpu,
            Self::Cuda(_) => Provider::Cuda,
            Self::TensorRt(..) => Provider::TensorRt,
        }
    }

    /// Returns the place of the stage's tensors.
    pub(crate) fn place(&self) -> Place {
        match self {
            Self::Cpu => Place::Host,
            Self::Cuda(CudaSettings { gpu, .. }) | Self::TensorRt(CudaSettings { gpu, .. }, _) => {
                Place::Gpu(gpu.clone())
            }
        }
    }

    /// Returns the providers to register, by priority. The CPU provider is always there;
    /// registering it would turn off its memory arena.
    fn registered(&self) -> Vec<ExecutionProviderDispatch> {
        match self {
            Self::Cpu => Vec::new(),
            Self::Cuda(settings) => vec![cuda(settings)],
            // CUDA runs the nodes that TensorRT leaves.
            Self::TensorRt(settings, tensorrt) => vec![tensor_rt(settings, tensorrt), cuda(settings)],
        }
    }
}

/// The most memory for TensorRT's search for the fastest kernels. Its default is all memory of the
/// GPU.
const WORKSPACE_BYTES: usize = 1 << 30;

fn cuda(settings: &CudaSettings) -> ExecutionProviderDispatch {
    let CudaSettings { gpu, memory_limit } = settings;
    ep::CUDA::default()
        .with_device_id(gpu.id() as i32)
        .with_memory_limit(*memory_limit)
        // The other strategy doubles each allocation, and the sizes of runs are known.
        .with_arena_extend_strategy(ArenaExtendStrategy::SameAsRequested)
        // f32 stages must compute in f32; the default of ONNX Runtime is TF32.
        .with_tf32(false)
        // There is one convolution, so a search for its fastest algorithm does not pay.
        .with_conv_algorithm_search(ConvAlgorithmSearch::Heuristic)
        .build()
        .error_on_failure()
}

fn tensor_rt(settings: &CudaSettings, tensorrt: &TensorRtSettings) -> ExecutionProviderDispatch {
    let TensorRtSettings { cache, is_fp16, input: (name, dimensions), most } = tensorrt;
    let dimensions: String = dimensions.iter().map(|dimension| format!("x{dimension}")).collect();
    let shapes = |images: usize| format!("{name}:{images}{dimensions}");
    let cache = cache.display();
    ep::TensorRT::default()
        .with_device_id(settings.gpu.id() as i32)
        .with_fp16(*is_fp16)
        .with_layer_norm_fp32_fallback(true)
        .with_max_workspace_size(WORKSPACE_BYTES.min(settings.memory_limit))
        .with_engine_cache(true)
        .with_engine_cache_path(cache.to_string())
        .with_timing_cache(true)
        .with_timing_cache_path(cache.to_string())
        .with_profile_min_shapes(shapes(1))
        .with_profile_opt_shapes(shapes(1)) // one image is what most runs encode, and what a user waits for
        .with_profile_max_shapes(shapes(*most))
        // Otherwise the weights pass through one message of at most 2 GiB.
        .with_arbitrary_config("trt_load_user_initializer", "1")
        .build()
        .error_on_failure()
}

/// A session that knows its name for messages.
#[derive(Debug)]
pub(crate) struct GraphSession {
    graph: &'static str,
    path: PathBuf,
    session: Session,
}

impl GraphSession {
    /// Loads `path`, and checks its inputs and outputs. On a GPU it also checks the placement of
    /// every node.
    pub(crate) fn open(
        runtime: &Runtime,
        graph: &'static str,
        path: &Path,
        provider: &StageProvider,
        inputs: &[Expected],
        outputs: &[Expected],
    ) -> Result<Self, RuntimeError> {
        let started = Instant::now();
        let on = provider.provider();
        let load = |source| RuntimeError::Load { graph, path: path.to_path_buf(), provider: on, source };
        let session = commit(runtime, graph, path, provider).map_err(load)?;
        let signature = |detail| RuntimeError::Signature { graph, path: path.to_path_buf(), detail };
        check("input", session.inputs(), inputs).map_err(signature)?;
        check("output", session.outputs(), outputs).map_err(signature)?;
        let ms = started.elapsed().as_millis();
        if on.is_gpu() {
            let placement = Placement::of(&session).map_err(load)?;
            if let Some(operators) = placement.strays(on) {
                return Err(RuntimeError::Stray { graph, provider: on, operators });
            }
            tracing::info!(graph, provider = %on, nodes = %placement, ms, "graph opened");
        } else {
            tracing::info!(graph, provider = %on, ms, "graph opened");
        }
        Ok(Self { graph, path: path.to_path_buf(), session })
    }

    pub(crate) fn session(&self) -> &Session {
        &self.session
    }

    pub(crate) fn session_mut(&mut self) -> &mut Session {
        &mut self.session
    }

    /// Returns a tensor's name of the manifest for [`super::Binding`].
    pub(crate) fn tensor_name(&self, name: &str) -> Result<TensorName, RuntimeError> {
        TensorName::new(name).map_err(|error| RuntimeError::Signature {
            graph: self.graph,
            path: self.path.clone(),
            detail: format!("a tensor's name: {error}"),
        })
    }

    /// Returns the error of a failed run of this graph.
    pub(crate) fn failed(&self) -> impl Fn(ort::Error) -> RuntimeError + use<> {
        let graph = self.graph;
        move |source| RuntimeError::Run { graph, source }
    }
}

/// A separate function because the builder's errors are not `Send`.
fn commit(runtime: &Runtime, graph: &str, path: &Path, provider: &StageProvider) -> ort::Result<Session> {
    // Shapes change from run to run, so a memory plan for one shape does not help the next.
    let mut builder = Session::builder(runtime.environment())?.with_log_id(graph)?.with_memory_pattern(false)?;
    if provider.provider().is_gpu() {
        builder = builder
            .with_execution_providers(provider.registered())?
            .with_config_entry(TAKE_NOTES.0, TAKE_NOTES.1)?
            // Outside the arena, weights take their exact size instead of whole blocks.
            .with_config_entry("session.use_device_allocator_for_initializers", "1")?;
    } else {
        if !runtime.arena() {
            builder = builder.with_execution_providers([ep::CPU::default().with_arena_allocator(false).build()])?;
        }
        if !has_vnni() {
            builder = builder.with_config_entry("session.x64quantprecision", "1")?;
        }
    }
    builder.commit_from_file(path)
}
/// Returns whether the processor has VNNI.
///
/// Without it the 8-bit kernels of x86 add pairs of products in 16 bits, and saturate. The setting
/// above then selects exact kernels, which cost 5 to 40 % more time. Other processors ignore it.
fn has_vnni() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::arch::is_x86_feature_detected!("avx512vnni") || std::arch::is_x86_feature_detected!("avxvnni")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

fn check(what: &str, found: &[Outlet], expected: &[Expected]) -> Result<(), String> {
    for wanted in expected {
        match found.iter().find(|outlet| outlet.name() == wanted.name) {
            None => return Err(format!("{what} {} is missing", wanted.describe())),
            Some(outlet) if !wanted.fits(outlet) => {
                return Err(format!("{what} {} is {} in the graph", wanted.describe(), outlet.dtype()));
            }
            Some(_) => {}
        }
    }
    match found.iter().find(|outlet| !expected.iter().any(|wanted| wanted.name == outlet.name())) {
        Some(extra) => Err(format!("{what} {} is unknown to the manifest", extra.name())),
        None => Ok(()),
    }
}
