//! What an adapter can do, and what is asked of it.

use crate::{
    device::{DeviceInfo, DeviceKind, Limits},
    error::Refusal,
    layout::TensorDesc,
    op::Op,
};

/// Abilities taken away from a device, so that kernels for lesser hardware can be tested on what
/// there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask {
    /// Hide shader arithmetic in f16.
    pub no_f16: bool,
    /// Hide subgroup operations.
    pub no_subgroup: bool,
    /// Hide the packed 8-bit dot product.
    pub no_dp4a: bool,
    /// Largest binding in bytes.
    pub max_binding: Option<u64>,
    /// Bounds checks, loop bounding and zeroed workgroup memory in every shader.
    pub checked: bool,
}

/// What the kernels of this backend choose by. Pure data: every choice can be tested without a
/// device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caps {
    /// `enable f16`.
    pub f16: bool,
    /// Smallest and largest subgroup. The size of one pipeline may be any power of two between.
    pub subgroup: Option<(u32, u32)>,
    /// The packed 8-bit dot product is an instruction, not an emulation.
    pub dp4a: bool,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Invocations of a workgroup.
    pub workgroup_size: u32,
    /// Workgroups along one axis of a dispatch.
    pub groups_per_axis: u32,
    /// Storage bindings of one dispatch.
    pub storage_bindings: u32,
    /// Bytes of one storage binding.
    pub max_binding: u64,
    /// Bytes of one buffer.
    pub max_buffer: u64,
    /// Alignment of a storage binding's offset.
    pub storage_align: u32,
    /// Alignment of a uniform binding's offset.
    pub uniform_align: u32,
    /// PCI vendor.
    pub vendor: u32,
    /// A card of its own, which has many units to fill.
    pub discrete: bool,
    /// In a browser.
    pub web: bool,
    /// Shaders carry run-time checks.
    pub checked: bool,
}

/// Largest binding that every native driver's 32-bit byte arithmetic can address.
const BYTES_IN_REACH: u64 = (1 << 31) - 1;

impl Caps {
    /// Caps of a device with these features and limits.
    pub(crate) fn new(
        features: wgpu::Features,
        limits: &wgpu::Limits,
        info: &wgpu::AdapterInfo,
        mask: &Mask,
    ) -> Self {
        let has = |f| features.contains(f);
        let metal = info.backend == wgpu::Backend::Metal;
        Caps {
            f16: has(wgpu::Features::SHADER_F16) && !mask.no_f16,
            subgroup: (has(wgpu::Features::SUBGROUP) && !mask.no_subgroup)
                .then_some((info.subgroup_min_size, info.subgroup_max_size)),
            dp4a: !metal && !mask.no_dp4a,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
            workgroup_size: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            groups_per_axis: limits.max_compute_workgroups_per_dimension,
            storage_bindings: limits.max_storage_buffers_per_shader_stage,
            max_binding: limits
                .max_storage_buffer_binding_size
                .min(mask.max_binding.unwrap_or(u64::MAX))
                .min(BYTES_IN_REACH)
                & !15,
            max_buffer: limits.max_buffer_size & !15,
            storage_align: limits.min_storage_buffer_offset_alignment.max(16),
            uniform_align: limits.min_uniform_buffer_offset_alignment.max(16),
            vendor: info.vendor,
            discrete: info.device_type == wgpu::DeviceType::DiscreteGpu,
            web: info.backend == wgpu::Backend::BrowserWebGpu,
            checked: mask.checked,
        }
    }

    /// Features to ask of an adapter: those that kernels use, as far as it has them. Its limits
    /// are asked for whole.
    pub(crate) fn request(available: wgpu::Features) -> wgpu::Features {
        available
            & (wgpu::Features::SHADER_F16
                | wgpu::Features::SUBGROUP
                | wgpu::Features::TIMESTAMP_QUERY)
    }

    /// Largest part of a buffer that a tensor may span: a binding that starts at an aligned
    /// offset at or below the tensor must hold it.
    pub(crate) fn max_span(&self) -> u64 {
        self.max_binding
            .saturating_sub(u64::from(self.storage_align))
    }

    /// Refuses a tensor that no single binding can hold.
    pub(crate) fn binds(&self, what: &'static str, d: &TensorDesc) -> Result<(), Refusal> {
        let (asked, max) = (d.span_bytes(), self.max_span());
        if asked > max {
            return Err(Refusal::Limit { what, asked, max });
        }
        Ok(())
    }

    /// Refuses an op with an operand that no single binding can hold.
    pub(crate) fn binds_all(&self, op: &Op<TensorDesc>) -> Result<(), Refusal> {
        let mut worst = Ok(());
        op.visit(|arg, d| {
            if let Err(e) = self.binds(arg.name, d) {
                worst = Err(e);
            }
        });
        worst
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits::new(self.max_buffer).with_max_binding(self.max_binding)
    }
}

/// What kind of hardware an adapter is.
pub(crate) fn kind(info: &wgpu::AdapterInfo) -> DeviceKind {
    match info.device_type {
        wgpu::DeviceType::DiscreteGpu => DeviceKind::DiscreteGpu,
        wgpu::DeviceType::IntegratedGpu => DeviceKind::IntegratedGpu,
        wgpu::DeviceType::Cpu => DeviceKind::SoftwareGpu,
        // A GPU behind a virtual machine or of an unknown bus is still a GPU.
        wgpu::DeviceType::VirtualGpu | wgpu::DeviceType::Other => DeviceKind::IntegratedGpu,
    }
}

/// Fills in what people want to read about an adapter.
pub(crate) fn describe(mut out: DeviceInfo, info: &wgpu::AdapterInfo, caps: &Caps) -> DeviceInfo {
    out.features
        .push(format!("{:?}", info.backend).to_lowercase());
    if !info.driver.is_empty() {
        out.features.push(
            format!("{} {}", info.driver, info.driver_info)
                .trim()
                .to_owned(),
        );
    }
    if caps.f16 {
        out.features.push("f16".to_owned());
    }
    if let Some((least, most)) = caps.subgroup {
        out.features.push(format!("subgroup {least}..{most}"));
    }
    if caps.dp4a {
        out.features.push("dp4a".to_owned());
    }
    out
}
