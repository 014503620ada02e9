//! Weights packed into panels when they are loaded.

use super::{
    arch::{TAGS, tier},
    kernel::{self, Kernel, Math, Tier},
    panel::Matrix,
};
use crate::backend::cpu::{
    memory::Filled,
    rows::Ctx,
    simd::{Eight, Scratch, Shared, Simd},
};
use crate::{DType, TensorDesc, device::Packed, error::Result, op::PackTag};
use std::{cell::RefCell, sync::Arc};

/// The layout of weights of a type.
fn tag(tier: Tier, w: DType) -> Option<PackTag> {
    TAGS.iter().find(|t| (t.0, t.1) == (tier, w)).map(|t| t.2)
}

/// Can a kernel of `tier` read `bytes` bytes packed as `tag` from `logical`?
pub(super) fn reads(tier: Tier, tag: PackTag, logical: &TensorDesc, bytes: u64) -> bool {
    let Some(d) = logical.plain() else {
        return false;
    };
    self::tag(tier, d) == Some(tag)
        && kernel_of(tier, d).is_some_and(|k| pack_bytes(k, logical) == Some(bytes))
}

/// A kernel that reads the pack; others with the same layout differ in arithmetic only.
pub(super) fn kernel_of(tier: Tier, w: DType) -> Option<&'static Kernel> {
    let math = if w == DType::I8 { Math::I8 } else { Math::F32 };
    // x of whichever type.
    kernel::select(tier, math, (w, w), true)
}

/// Bytes of a packed matrix.
pub(super) fn matrix_bytes(kernel: &Kernel, n: usize, k: usize) -> usize {
    n.div_ceil(kernel.columns) * (kernel.panel_bytes)(k)
}

/// Bytes of a pack, if an address can count them.
fn pack_bytes(kernel: &Kernel, w: &TensorDesc) -> Option<u64> {
    let (n, k) = (u64::from(w.dim_back(1)), u64::from(w.dim_back(0)));
    let matrices = w.elements().checked_div(n.checked_mul(k)?)?;
    let panel = (kernel.panel_bytes)(usize::try_from(k).ok()?) as u64;
    let matrix = n.div_ceil(kernel.columns as u64).checked_mul(panel)?;
    matrix.checked_mul(matrices)
}

thread_local! {
    static PANEL: RefCell<Scratch> = RefCell::default();
}

/// Panels of the contiguous plain weight `w`, whose numbers `host` holds; `None` where there is no
/// kernel, or so few columns that panels are mostly padding.
pub(in crate::backend::cpu) fn prepack(
    ctx: &Ctx,
    w: &TensorDesc,
    host: &[u8],
) -> Result<Option<Packed>> {
    let Some(dtype) = w.plain() else {
        return Ok(None);
    };
    let Some(tier) = tier(ctx.env.isa, dtype) else {
        return Ok(None);
    };
    let math = if dtype == DType::I8 {
        Math::I8
    } else {
        Math::F32
    };
    // What fills the panels of packs of pairs is what the kernel of pairs fills its own with.
    let fill_math = if dtype == DType::BF16 {
        Math::Bf16
    } else {
        math
    };
    let (Some(kernel), Some(tag), Some(fill)) = (
        kernel_of(tier, dtype),
        tag(tier, dtype),
        kernel::fill(tier, fill_math, dtype),
    ) else {
        return Ok(None);
    };
    let (n, k) = (w.dim_back(1) as usize, w.dim_back(0) as usize);
    let bytes = pack_bytes(kernel, w).filter(|&b| b <= u64::from(u32::MAX));
    let (Some(bytes), true) = (bytes, w.rank() >= 2 && n >= kernel.columns / 2 && k > 0) else {
        return Ok(None);
    };
    let panels = n.div_ceil(kernel.columns);
    let panel_bytes = (kernel.panel_bytes)(k);
    let fill_panels = |data: &mut [u8]| {
        let out = Shared(data.as_mut_ptr());
        let count = data.len() / panel_bytes;
        ctx.pool.parallel(count, host.len() as u64 / 4, |range| {
            let out = &out;
            for i in range {
                let (matrix, panel) = (i / panels, i % panels);
                let n0 = panel * kernel.columns;
                let columns = kernel.columns.min(n - n0);
                // SAFETY: the matrix is in `host`, the panel in `data`; the tier has the features.
                unsafe {
                    let rows = Matrix {
                        start: host.as_ptr().add(matrix * n * k * dtype.size()),
                        n_step: k,
                        k_step: 1,
                    };
                    let to = out.0.add(i * panel_bytes);
                    if dtype == DType::F16 {
                        halves(kernel, fill, rows, n0, columns, k, to);
                        continue;
                    }
                    fill(rows, n0, columns, 0, k, to.cast(), kernel.columns, 0);
                    if let Some(add) = kernel.zeros {
                        let steps = k.div_ceil(kernel.per_word * kernel.step);
                        add(to, steps, to.add(panel_bytes - 4 * kernel.columns).cast());
                    }
                }
            }
        });
    };
    let data = Arc::new(Filled::new(bytes, fill_panels)?);
    Ok(Some(Packed { data, tag }))
}

/// A panel of f16, by way of f32, which holds every f16.
///
/// # Safety
/// As for `fill`; `to` has room for the panel.
unsafe fn halves(
    kernel: &Kernel,
    fill: kernel::Fill,
    w: Matrix,
    n0: usize,
    n: usize,
    k: usize,
    to: *mut u8,
) {
    const BLOCK: usize = 64;
    PANEL.with_borrow_mut(|scratch| {
        // SAFETY: the scratch has a block of columns.
        unsafe {
            let wide = scratch.take(BLOCK * kernel.columns);
            for k0 in (0..k).step_by(BLOCK) {
                let len = BLOCK.min(k - k0);
                fill(w, n0, n, k0, len, wide.cast(), kernel.columns, 0);
                let to = to.add(k0 * kernel.step_bytes).cast();
                narrow(wide, len * kernel.columns, to);
            }
        }
    });
}

/// # Safety
/// `n` numbers, a multiple of 8, at both places; the CPU has the features of [`Eight`].
#[cfg_attr(target_arch = "x86_64", target_feature(enable = "avx2,fma,f16c"))]
#[cfg_attr(target_arch = "aarch64", target_feature(enable = "neon"))]
unsafe fn narrow(from: *const f32, n: usize, to: *mut half::f16) {
    for i in (0..n).step_by(8) {
        // SAFETY: the caller's contract.
        unsafe { Eight::store_f16_n(to.add(i), 8, Eight::load(from.add(i))) }
    }
}
