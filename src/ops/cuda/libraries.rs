//! CUDA's libraries, opened when a GPU is asked for: one program serves machines that have them and machines that do
//! not.
//!
//! candle has cudarc call them as linked libraries. The functions that it calls are defined here, so that the linker
//! needs no library: each jumps to where its entry of a table points. That is the library's own function once [`open`]
//! has found it; before that, and where the library lacks it, an answer of "not initialised" in that library's words.

use std::ffi::{CStr, CString, c_char, c_void};
use std::sync::{Once, OnceLock};

/// `library! { module, "name of its table", what its functions answer while it is not open, functions… }`
macro_rules! library {
    ($module:ident, $table:literal, $answer:literal, $($function:ident)+) => {
        mod $module {
            std::arch::global_asm!(
                concat!(".pushsection .text.", $table, ",\"ax\",@progbits"),
                concat!($table, "_closed: mov eax, ", $answer),
                "ret",
                ".popsection",
                concat!(".pushsection .data.", $table, ",\"aw\",@progbits"),
                ".balign 8",
                concat!(".globl ", $table),
                concat!($table, ":"),
                ".popsection",
                $(
                    concat!(".pushsection .text.", $table, ",\"ax\",@progbits"),
                    concat!(".globl ", stringify!($function)),
                    concat!(".type ", stringify!($function), ",@function"),
                    concat!(stringify!($function), ": jmp qword ptr [rip + .Lentry_", stringify!($function), "]"),
                    ".popsection",
                    concat!(".pushsection .data.", $table, ",\"aw\",@progbits"),
                    concat!(".Lentry_", stringify!($function), ": .quad ", $table, "_closed"),
                    ".popsection",
                )+
            );

            unsafe extern "C" {
                #[link_name = $table]
                static mut TABLE: [*const std::ffi::c_void; NAMES.len()];
            }

            const NAMES: &[&str] = &[$(stringify!($function)),+];

            pub(super) fn library() -> super::Library {
                super::Library { names: NAMES, table: (&raw mut TABLE).cast() }
            }
        }
    };
}

// CUDA_ERROR_NOT_INITIALIZED
library! { driver, "reportclip_driver", 3,
    cuCtxCreate_v3 cuCtxCreate_v4 cuCtxDestroy_v2 cuCtxGetCacheConfig cuCtxGetCurrent cuCtxGetLimit
    cuCtxGetStreamPriorityRange cuCtxSetCacheConfig cuCtxSetCurrent cuCtxSetFlags cuCtxSetLimit cuCtxSynchronize
    cuDestroyExternalMemory cuDeviceGet cuDeviceGetAttribute cuDeviceGetCount cuDeviceGetDefaultMemPool
    cuDeviceGetMemPool cuDeviceGetName cuDeviceGetUuid cuDeviceGetUuid_v2 cuDevicePrimaryCtxRelease_v2
    cuDevicePrimaryCtxRetain cuDeviceSetMemPool cuDeviceTotalMem_v2 cuDriverGetVersion cuEventCreate
    cuEventDestroy_v2 cuEventElapsedTime cuEventElapsedTime_v2 cuEventQuery cuEventRecord cuEventSynchronize
    cuExternalMemoryGetMappedBuffer cuFuncGetAttribute cuFuncSetAttribute cuFuncSetCacheConfig cuGetErrorName
    cuGetErrorString cuGraphDestroy cuGraphExecDestroy cuGraphInstantiateWithFlags cuGraphLaunch cuGraphUpload
    cuImportExternalMemory cuInit cuLaunchCooperativeKernel cuLaunchHostFunc cuLaunchKernel cuMemAdvise_v2
    cuMemAllocAsync cuMemAllocFromPoolAsync cuMemAllocManaged cuMemAlloc_v2 cuMemFreeAsync cuMemFreeHost
    cuMemFree_v2 cuMemGetInfo_v2 cuMemHostAlloc cuMemPoolCreate cuMemPoolDestroy cuMemPoolGetAttribute
    cuMemPoolSetAttribute cuMemPoolTrimTo cuMemPrefetchAsync_v2 cuMemcpyDtoDAsync_v2 cuMemcpyDtoD_v2
    cuMemcpyDtoHAsync_v2 cuMemcpyDtoH_v2 cuMemcpyHtoDAsync_v2 cuMemcpyHtoD_v2 cuMemcpyPeerAsync cuMemsetD8Async
    cuMemsetD8_v2 cuModuleGetFunction cuModuleGetGlobal_v2 cuModuleLoad cuModuleLoadData cuModuleUnload
    cuOccupancyAvailableDynamicSMemPerBlock cuOccupancyMaxActiveBlocksPerMultiprocessor
    cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags cuOccupancyMaxActiveClusters
    cuOccupancyMaxPotentialBlockSize cuOccupancyMaxPotentialBlockSizeWithFlags
    cuOccupancyMaxPotentialClusterSize cuProfilerStart cuProfilerStop cuStreamAttachMemAsync
    cuStreamBeginCapture_v2 cuStreamCreate cuStreamCreateWithPriority cuStreamDestroy_v2 cuStreamEndCapture
    cuStreamIsCapturing cuStreamSynchronize cuStreamWaitEvent
}

// CUBLAS_STATUS_NOT_INITIALIZED
library! { cublas, "reportclip_cublas", 1,
    cublasCreate_v2 cublasDasum_v2 cublasDestroy_v2 cublasDgemmStridedBatched cublasDgemm_v2 cublasDgemv_v2
    cublasGemmEx cublasGemmGroupedBatchedEx cublasGemmStridedBatchedEx cublasGetPointerMode_v2 cublasSasum_v2
    cublasSetPointerMode_v2 cublasSetStream_v2 cublasSgemmStridedBatched cublasSgemm_v2 cublasSgemv_v2
}

// CURAND_STATUS_NOT_INITIALIZED
library! { curand, "reportclip_curand", 101,
    curandCreateGenerator curandDestroyGenerator curandGenerate curandGenerateLogNormal
    curandGenerateLogNormalDouble curandGenerateLongLong curandGenerateNormal curandGenerateNormalDouble
    curandGeneratePoisson curandGenerateUniform curandGenerateUniformDouble curandSetGeneratorOffset
    curandSetPseudoRandomGeneratorSeed curandSetStream
}

// CUDNN_STATUS_NOT_INITIALIZED
library! { cudnn, "reportclip_cudnn", 1001,
    cudnnActivationForward cudnnConvolutionBackwardData cudnnConvolutionBackwardFilter
    cudnnConvolutionBiasActivationForward cudnnConvolutionForward cudnnCreate cudnnCreateActivationDescriptor
    cudnnCreateConvolutionDescriptor cudnnCreateFilterDescriptor cudnnCreatePoolingDescriptor
    cudnnCreateReduceTensorDescriptor cudnnCreateTensorDescriptor cudnnDestroy cudnnDestroyConvolutionDescriptor
    cudnnDestroyFilterDescriptor cudnnDestroyReduceTensorDescriptor cudnnDestroyTensorDescriptor
    cudnnGetConvolutionBackwardDataAlgorithm_v7 cudnnGetConvolutionBackwardDataWorkspaceSize
    cudnnGetConvolutionBackwardFilterAlgorithm_v7 cudnnGetConvolutionBackwardFilterWorkspaceSize
    cudnnGetConvolutionForwardAlgorithm_v7 cudnnGetConvolutionForwardWorkspaceSize cudnnGetReductionIndicesSize
    cudnnGetReductionWorkspaceSize cudnnGetVersion cudnnPoolingForward cudnnReduceTensor
    cudnnSetActivationDescriptor cudnnSetConvolution2dDescriptor cudnnSetConvolutionGroupCount
    cudnnSetConvolutionMathType cudnnSetConvolutionNdDescriptor cudnnSetFilter4dDescriptor
    cudnnSetFilterNdDescriptor cudnnSetPoolingNdDescriptor cudnnSetReduceTensorDescriptor cudnnSetStream
    cudnnSetTensor4dDescriptor cudnnSetTensor4dDescriptorEx cudnnSetTensorNdDescriptor cudnnSoftmaxForward
}

// ncclInternalError
library! { nccl, "reportclip_nccl", 3,
    ncclAllGather ncclAllReduce ncclBroadcast ncclCommAbort ncclCommCount ncclCommCuDevice ncclCommDestroy
    ncclCommFinalize ncclCommInitAll ncclCommInitRank ncclCommInitRankConfig ncclCommSplit ncclCommUserRank
    ncclGetUniqueId ncclGetVersion ncclGroupEnd ncclGroupStart ncclRecv ncclRedOpCreatePreMulSum
    ncclRedOpDestroy ncclReduce ncclReduceScatter ncclSend ncclGetErrorString
}

// candle's products of quantised weights, which nobody here calls: they stay closed, and neither their kernels nor
// CUDA's runtime library is part of the program.
library! { quantised, "reportclip_quantised", 0,
    candle_launch_moe_align moe_gemm_wmma moe_gemm_gguf moe_gemm_gguf_prefill launch_mmvq_gguf_q4_0_bf16_plain
    launch_mmvq_gguf_q4_1_bf16_plain launch_mmvq_gguf_q5_0_bf16_plain launch_mmvq_gguf_q5_1_bf16_plain
    launch_mmvq_gguf_q8_0_bf16_plain launch_mmvq_gguf_q2_k_bf16_plain launch_mmvq_gguf_q3_k_bf16_plain
    launch_mmvq_gguf_q4_k_bf16_plain launch_mmvq_gguf_q5_k_bf16_plain launch_mmvq_gguf_q6_k_bf16_plain
    launch_mmvq_gguf_q4_0_f32_plain launch_mmvq_gguf_q4_1_f32_plain launch_mmvq_gguf_q5_0_f32_plain
    launch_mmvq_gguf_q5_1_f32_plain launch_mmvq_gguf_q8_0_f32_plain launch_mmvq_gguf_q2_k_f32_plain
    launch_mmvq_gguf_q3_k_f32_plain launch_mmvq_gguf_q4_k_f32_plain launch_mmvq_gguf_q5_k_f32_plain
    launch_mmvq_gguf_q6_k_f32_plain launch_mmvq_gguf_q4_0_f16_plain launch_mmvq_gguf_q4_1_f16_plain
    launch_mmvq_gguf_q5_0_f16_plain launch_mmvq_gguf_q5_1_f16_plain launch_mmvq_gguf_q8_0_f16_plain
    launch_mmvq_gguf_q2_k_f16_plain launch_mmvq_gguf_q3_k_f16_plain launch_mmvq_gguf_q4_k_f16_plain
    launch_mmvq_gguf_q5_k_f16_plain launch_mmvq_gguf_q6_k_f16_plain launch_mmvq_gguf_quantize_q8_1_bf16
    launch_mmvq_gguf_quantize_q8_1_f16 launch_mmvq_gguf_quantize_q8_1_f32 launch_mmq_quantize_q8_1_D4
    launch_mmq_quantize_q8_1_DS4 launch_mmq_quantize_q8_1_D2S6 launch_mmq_gguf_q4_0 launch_mmq_gguf_q4_1
    launch_mmq_gguf_q5_0 launch_mmq_gguf_q5_1 launch_mmq_gguf_q8_0 launch_mmq_gguf_q2_k launch_mmq_gguf_q3_k
    launch_mmq_gguf_q4_k launch_mmq_gguf_q5_k launch_mmq_gguf_q6_k
}

/// Functions, and where each jumps to.
#[derive(Clone, Copy)]
struct Library {
    names: &'static [&'static str],
    table: *mut *const c_void,
}

/// Opens the driver, cuBLAS and cuRAND, and cuDNN and NCCL where they are there.
///
/// # Errors
/// Which of the first three cannot be opened, in one line with what helps.
pub(super) fn open() -> Result<(), String> {
    static OPENED: OnceLock<Result<(), String>> = OnceLock::new();
    OPENED.get_or_init(open_all).clone()
}

static CUDNN: OnceLock<Result<(), String>> = OnceLock::new();

/// # Errors
/// cuDNN could not be opened, in one line with what helps.
#[cfg(feature = "cudnn")]
pub(super) fn cudnn_is_open() -> Result<(), String> {
    CUDNN.get().cloned().unwrap_or(Ok(()))
}

const TF32: &str = "NVIDIA_TF32_OVERRIDE";

/// Has products and convolutions of f32 worked out in f32: cuDNN's are in TF32, of 10 bits, unless it is told
/// otherwise, and candle tells it nothing. Whoever set the variable has what he wants.
fn keep_f32() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        if std::env::var_os(TF32).is_none() {
            // SAFETY: nobody else writes the environment, which Rust's own readers are kept from meanwhile; libraries
            // that read it by themselves, CUDA's and the loader's, are opened after this, on this thread.
            unsafe { std::env::set_var(TF32, "0") };
        }
    });
}

fn open_all() -> Result<(), String> {
    keep_f32();
    // Has the linker take the functions that stay closed from here as well.
    std::hint::black_box(quantised::library().table);
    let version = env!("REPORTCLIP_CUDA");
    driver::library().open("libcuda.so.1").map_err(|why| format!("no NVIDIA driver: {why}"))?;
    for (library, name) in
        [(cublas::library(), format!("libcublas.so.{version}")), (curand::library(), "libcurand.so.10".into())]
    {
        library.open(&name).map_err(|why| {
            format!(
                "{why}; CUDA {version}'s libraries are wanted: put their folder into LD_LIBRARY_PATH \
                 (/usr/local/cuda/lib64, or of PyTorch's wheels nvidia/cu{version}/lib)"
            )
        })?;
    }
    // What has no convolutions runs without.
    let _ = CUDNN.set(cudnn::library().open("libcudnn.so.9").map_err(|why| {
        format!(
            "convolutions on a GPU need cuDNN 9: {why}; put its folder into LD_LIBRARY_PATH (of PyTorch's wheels \
             nvidia/cudnn/lib)"
        )
    }));
    if let Err(why) = nccl::library().open("libnccl.so.2") {
        tracing::debug!("{why}");
    }
    Ok(())
}

impl Library {
    fn open(self, name: &str) -> Result<(), String> {
        // Where an installation puts them without telling the loader.
        let folders = ["", "/usr/local/cuda/lib64/", "/usr/local/cuda/targets/x86_64-linux/lib/"];
        let mut told = folders.iter().map(|folder| handle(&format!("{folder}{name}")));
        // What the loader says of the name alone is what helps.
        let first = told.next().unwrap_or_else(|| Err(format!("{name} is not there")));
        let handle = first.or_else(|why| told.find_map(Result::ok).ok_or(why))?;
        let mut lacking = Vec::new();
        for (i, function) in self.names.iter().enumerate() {
            let Ok(symbol) = CString::new(*function) else { continue };
            // SAFETY: a library that is open, and a name that ends.
            let found = unsafe { libc::dlsym(handle, symbol.as_ptr()) };
            if found.is_null() {
                lacking.push(*function);
            } else {
                // SAFETY: the table has an entry a name, and is written once, before anything of CUDA is called.
                unsafe { self.table.add(i).write(found) };
            }
        }
        if !lacking.is_empty() {
            tracing::debug!("{name} lacks {}", lacking.join(", "));
        }
        Ok(())
    }
}

/// The open library of this name.
fn handle(name: &str) -> Result<*mut c_void, String> {
    let path = CString::new(name).map_err(|e| e.to_string())?;
    // SAFETY: a name that ends. What libraries do when they are opened is theirs.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    if !handle.is_null() {
        return Ok(handle);
    }
    // SAFETY: text of the loader's that stays until it is asked for something else, on this thread.
    let why: *const c_char = unsafe { libc::dlerror() };
    if why.is_null() {
        return Err(format!("{name} cannot be opened"));
    }
    // SAFETY: as above.
    Err(unsafe { CStr::from_ptr(why) }.to_string_lossy().into_owned())
}
