//! AMX: two-dimensional tiles of eight registers, through assembly, since the intrinsics are not
//! stable.
//!
//! A tile of x is up to 16 rows of 64 bytes; one of weights is up to 16 rows of four bytes of k
//! for each of 16 columns.

use super::Fetch;
use std::{
    arch::{asm, x86_64::*},
    marker::PhantomData,
    mem::MaybeUninit,
    sync::LazyLock,
};

/// Are tiles of bf16 and of bytes there, and does the operating system let this process use them?
pub(crate) fn is_usable() -> bool {
    static USABLE: LazyLock<bool> = LazyLock::new(|| has_tiles() && permitted());
    *USABLE
}

/// Does the processor have AMX-TILE, AMX-BF16 and AMX-INT8, and the operating system save tiles?
fn has_tiles() -> bool {
    const FEATURES: u32 = 1 << 22 | 1 << 24 | 1 << 25;
    const OSXSAVE: u32 = 1 << 27;
    /// Tile configuration and tile data.
    const STATE: u64 = 3 << 17;
    let has = __cpuid(0).eax >= 7
        && __cpuid(1).ecx & OSXSAVE != 0
        && __cpuid_count(7, 0).edx & FEATURES == FEATURES;
    // SAFETY: OSXSAVE says that the instruction exists.
    has && unsafe { xcr0() } & STATE == STATE
}

#[target_feature(enable = "xsave")]
fn xcr0() -> u64 {
    // SAFETY: register 0 exists wherever the instruction does.
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the state of tiles, which a process gets on request alone.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory of this process.
    unsafe {
        libc::syscall(
            libc::SYS_arch_prctl,
            ARCH_REQ_XCOMP_PERM,
            XFEATURE_XTILEDATA,
        ) == 0
    }
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// What the eight tiles hold; the format of the processor.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Sets registers up for [`Rows`] of `rows` rows, 1 to 32: up to 16 in registers 0, 1 and 4, the
/// others in 2, 3 and 5.
///
/// # Safety
/// As for [`configure`].
#[inline]
pub(crate) unsafe fn configure_rows(rows: usize) {
    let upper = (rows.min(16) as u8, 64);
    let lower = (rows.saturating_sub(16).clamp(1, 16) as u8, 64);
    let weights = (16, 64);
    let shapes = [upper, upper, lower, lower, upper, lower, weights, weights];
    // SAFETY: the caller's contract is the callee's.
    unsafe { configure(shapes) }
}

/// Sets registers up, each for so many rows of so many bytes, and clears them.
///
/// # Safety
/// [`is_usable`]; up to 16 rows of up to 64 bytes. Tiles are left to other code only after
/// [`release`].
#[inline]
pub(crate) unsafe fn configure(shapes: [(u8, u16); 8]) {
    let mut config = Config {
        palette: 1,
        start_row: 0,
        reserved: [0; 14],
        row_bytes: [0; 16],
        rows: [0; 16],
    };
    for (i, (rows, bytes)) in shapes.into_iter().enumerate() {
        (config.rows[i], config.row_bytes[i]) = (rows, bytes);
    }
    // SAFETY: AMX-TILE by the caller's contract; the configuration is of palette 1.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, readonly));
    }
}

/// Gives the tiles up, so that switches between threads do not carry them.
///
/// # Safety
/// [`is_usable`].
#[inline]
pub(crate) unsafe fn release() {
    // SAFETY: AMX-TILE by the caller's contract.
    unsafe { asm!("tilerelease", options(nostack, nomem)) }
}

// The registers are no operands: code that is not assembly never uses them.

/// Clears register `T`.
///
/// # Safety
/// Tiles are configured; so for all that follow.
#[inline(always)]
pub(crate) unsafe fn zero<const T: u8>() {
    // SAFETY: the caller's contract.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack, nomem)) }
}

/// Loads register `T` from rows that are `step` bytes apart.
///
/// # Safety
/// They exist.
#[inline(always)]
pub(crate) unsafe fn load<const T: u8>(p: *const u8, step: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tileloadd tmm{t}, [{p} + {s}]", t = const T, p = in(reg) p, s = in(reg) step,
            options(nostack, readonly));
    }
}

/// Stores register `T` to rows that are `step` bytes apart.
///
/// # Safety
/// They exist.
#[inline(always)]
pub(crate) unsafe fn store<const T: u8>(p: *mut u8, step: usize) {
    // SAFETY: the caller's contract.
    unsafe {
        asm!("tilestored [{p} + {s}], tmm{t}", t = const T, p = in(reg) p, s = in(reg) step,
            options(nostack));
    }
}

/// What tiles multiply.
pub(crate) trait Product: Copy + 'static {
    /// Adds the product of registers `X` and `W` to register `C`.
    ///
    /// # Safety
    /// Tiles are configured.
    unsafe fn add<const C: u8, const X: u8, const W: u8>();
    /// The sum of two vectors of sums.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    unsafe fn sum(a: __m512i, b: __m512i) -> __m512i;
}

/// Pairs of bf16, sums in f32.
#[derive(Clone, Copy)]
pub(crate) struct Bf16;
/// Unsigned bytes of x by signed ones of weights, sums in i32.
#[derive(Clone, Copy)]
pub(crate) struct Bytes;

impl Product for Bf16 {
    #[inline(always)]
    unsafe fn add<const C: u8, const X: u8, const W: u8>() {
        // SAFETY: the caller's contract.
        unsafe {
            asm!("tdpbf16ps tmm{c}, tmm{x}, tmm{w}", c = const C, x = const X, w = const W,
                options(nostack, nomem));
        }
    }

    #[inline(always)]
    unsafe fn sum(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe {
            _mm512_castps_si512(_mm512_add_ps(
                _mm512_castsi512_ps(a),
                _mm512_castsi512_ps(b),
            ))
        }
    }
}

impl Product for Bytes {
    #[inline(always)]
    unsafe fn add<const C: u8, const X: u8, const W: u8>() {
        // SAFETY: the caller's contract.
        unsafe {
            asm!("tdpbusd tmm{c}, tmm{x}, tmm{w}", c = const C, x = const X, w = const W,
                options(nostack, nomem));
        }
    }

    #[inline(always)]
    unsafe fn sum(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi32(a, b) }
    }
}

/// Signed bytes of both, sums in i32.
#[derive(Clone, Copy)]
pub(crate) struct SignedBytes;

impl Product for SignedBytes {
    #[inline(always)]
    unsafe fn add<const C: u8, const X: u8, const W: u8>() {
        // SAFETY: the caller's contract.
        unsafe {
            asm!("tdpbssd tmm{c}, tmm{x}, tmm{w}", c = const C, x = const X, w = const W,
                options(nostack, nomem));
        }
    }

    #[inline(always)]
    unsafe fn sum(a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: the caller's contract.
        unsafe { _mm512_add_epi32(a, b) }
    }
}

/// Which terms of x and of weights are multiplied, small products first; those of at most 2^-24 of
/// the numbers' product are left out (with terms rounded to nearest, what follows the i-th is at
/// most 2^-8i of the number).
const fn order(x: usize, w: usize) -> &'static [(usize, usize)] {
    match (x, w) {
        (1, 1) => &[(0, 0)],
        (1, 2) => &[(0, 1), (0, 0)],
        (1, _) => &[(0, 2), (0, 1), (0, 0)],
        (2, 1) => &[(1, 0), (0, 0)],
        (2, 2) => &[(1, 1), (0, 1), (0, 0), (1, 0)],
        (2, _) => &[(0, 2), (0, 1), (1, 1), (1, 0), (0, 0)],
        (_, 1) => &[(2, 0), (1, 0), (0, 0)],
        (_, 2) => &[(0, 1), (1, 1), (1, 0), (2, 0), (0, 0)],
        (_, _) => &[(0, 2), (0, 1), (1, 1), (1, 0), (2, 0), (0, 0)],
    }
}

/// Bytes of a row of a [`Room`].
const SUMS: usize = 128;

/// Rows of x by 32 columns, each number of x the sum of `X` terms, of weights of `W`.
#[derive(Clone, Copy)]
pub(crate) struct Rows<const X: usize, const W: usize> {
    /// `[steps][X][rows][64 bytes]`.
    pub x: *const u8,
    /// 1 to 32, as tiles are configured.
    pub rows: usize,
    /// `[steps][W][16][32][4 bytes]`.
    pub w: *const u8,
    /// Where the sums go, four bytes each, rows `step` bytes apart.
    pub c: *mut u8,
    pub step: usize,
    /// They replace what is there.
    pub fresh: bool,
}

/// Steps from which sums leave by way of a [`Room`]: with fewer, what [`Leave`] does takes longer
/// than tiles wait for memory.
pub(crate) const DEEP: usize = 16;
/// Bytes of a step of weights of one term.
pub(crate) const STEP: usize = 16 * 32 * 4;

impl<const X: usize, const W: usize> Rows<X, W> {
    /// `c (+)= x . w` over `steps` steps. Each step fetches four times from `fetch`, and moves a
    /// part of what is `before`, all of it in the end.
    ///
    /// # Safety
    /// The pointers lead to what they say, `before` to other sums; tiles are configured for the
    /// rows; AMX and AVX-512 are usable.
    #[inline(always)]
    pub unsafe fn run<P: Product>(self, steps: usize, before: impl Leave, fetch: &mut Fetch) {
        // SAFETY: the caller's contract.
        unsafe {
            if self.rows > 16 {
                self.strips::<P, true>(steps, before, fetch);
            } else {
                self.strips::<P, false>(steps, before, fetch);
            }
        }
    }

    /// What is `before` and what to fetch are copies, so that the loop has them in registers: tiles
    /// that load wait for stores whose addresses end in the same twelve bits.
    #[inline(always)]
    unsafe fn strips<P: Product, const TWO: bool>(
        self,
        steps: usize,
        mut before: impl Leave,
        fetch: &mut Fetch,
    ) {
        let pace = before.rows().div_ceil(steps.max(1));
        let (c, step) = (self.c, self.step);
        let lower = c.wrapping_add(16 * step);
        let mut ahead = *fetch;
        // SAFETY: the caller's contract.
        unsafe {
            if self.fresh {
                zero::<0>();
                zero::<1>();
                if TWO {
                    zero::<2>();
                    zero::<3>();
                }
            } else {
                load::<0>(c, step);
                load::<1>(c.add(64), step);
                if TWO {
                    load::<2>(lower, step);
                    load::<3>(lower.add(64), step);
                }
            }
            let (mut x, mut w) = (self.x, self.w);
            for _ in 0..steps {
                let mut held = (X, W);
                let single = const { order(X, W).len() == 1 };
                for &(i, j) in const { order(X, W) } {
                    let (x, w) = (x.add(i * self.rows * 64), w.add(j * STEP));
                    if j != held.1 {
                        load::<6>(w, 128);
                    }
                    if single {
                        ahead.some();
                    }
                    if i != held.0 {
                        load::<4>(x, 64);
                    }
                    P::add::<0, 4, 6>();
                    if single {
                        ahead.some();
                    }
                    if j != held.1 {
                        load::<7>(w.add(64), 128);
                    }
                    if single {
                        ahead.some();
                    }
                    P::add::<1, 4, 7>();
                    if single {
                        ahead.some();
                    }
                    if TWO {
                        if i != held.0 {
                            load::<5>(x.add(16 * 64), 64);
                        }
                        P::add::<2, 5, 6>();
                        P::add::<3, 5, 7>();
                    }
                    held = (i, j);
                }
                for _ in 0..pace.min(before.rows()) {
                    before.row();
                }
                if !single {
                    for _ in 0..4 {
                        ahead.some();
                    }
                }
                x = x.add(X * self.rows * 64);
                w = w.add(W * STEP);
            }
            *fetch = ahead;
            before.all();
            store::<0>(c, step);
            store::<1>(c.add(64), step);
            if TWO {
                store::<2>(lower, step);
                store::<3>(lower.add(64), step);
            }
        }
    }
}

/// Room for the sums of [`Rows`], which stays in the first level of cache.
#[repr(C, align(64))]
pub(crate) struct Room([MaybeUninit<u8>; 32 * SUMS]);

impl Room {
    pub const fn new() -> Room {
        Room([MaybeUninit::uninit(); 32 * SUMS])
    }

    /// As [`Rows::c`] and [`Rows::step`].
    pub fn place(&mut self) -> (*mut u8, usize) {
        (self.0.as_mut_ptr().cast(), SUMS)
    }
}

/// Rows of sums that leave a [`Room`] while tiles are multiplied: tiles that stored to memory
/// further away would wait for it.
pub(crate) trait Leave: Copy {
    /// Rows that are left.
    fn rows(&self) -> usize;
    /// Moves the next row.
    ///
    /// # Safety
    /// It exists; the CPU has AVX-512 and what else the type names.
    unsafe fn row(&mut self);

    /// Moves what is left.
    ///
    /// # Safety
    /// As for [`Leave::row`].
    #[inline(always)]
    unsafe fn all(mut self) {
        while self.rows() > 0 {
            // SAFETY: the caller's contract.
            unsafe { self.row() }
        }
    }
}

/// No rows.
#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Leave for Nothing {
    #[inline(always)]
    fn rows(&self) -> usize {
        0
    }

    #[inline(always)]
    unsafe fn row(&mut self) {}
}

/// Rows of a [`Room`] and those that they add to.
#[derive(Clone, Copy)]
pub(crate) struct Sums<P> {
    room: *mut u8,
    c: *mut u8,
    step: usize,
    rows: usize,
    fresh: bool,
    product: PhantomData<P>,
}

impl<P: Product> Sums<P> {
    /// `rows` rows of `room`, which add to those at `c`, `step` bytes apart, or replace them if
    /// `fresh`.
    pub fn new(room: &mut Room, rows: usize, (c, step): (*mut u8, usize), fresh: bool) -> Sums<P> {
        Sums {
            room: room.0.as_mut_ptr().cast(),
            c,
            step,
            rows,
            fresh,
            product: PhantomData,
        }
    }

    /// The sums of the next row, whose place in the room and at `c` come with them.
    ///
    /// # Safety
    /// It exists; the CPU has AVX-512.
    #[inline(always)]
    pub unsafe fn next(&mut self) -> ([__m512i; 2], *mut u8, *mut u8) {
        let (room, c) = (self.room, self.c);
        self.room = room.wrapping_add(SUMS);
        self.c = c.wrapping_add(self.step);
        self.rows -= 1;
        // SAFETY: the caller's contract.
        unsafe {
            let mut sums = [
                _mm512_load_si512(room.cast()),
                _mm512_load_si512(room.add(64).cast()),
            ];
            if !self.fresh {
                sums[0] = P::sum(sums[0], _mm512_loadu_si512(c.cast()));
                sums[1] = P::sum(sums[1], _mm512_loadu_si512(c.add(64).cast()));
            }
            (sums, room, c)
        }
    }
}

impl<P: Product> Leave for Sums<P> {
    #[inline(always)]
    fn rows(&self) -> usize {
        self.rows
    }

    #[inline(always)]
    unsafe fn row(&mut self) {
        // SAFETY: the caller's contract.
        unsafe {
            let (sums, _, c) = self.next();
            _mm512_storeu_si512(c.cast(), sums[0]);
            _mm512_storeu_si512(c.add(64).cast(), sums[1]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    /// Adds the product to rows of 40 numbers.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
    unsafe fn product(x: &[bf16], rows: usize, steps: usize, panel: &[bf16], c: &mut [f32]) {
        let (mut room, mut none) = (Room::new(), Fetch::NONE);
        let own = (c.as_mut_ptr().cast(), 160);
        // SAFETY: the caller's contract.
        unsafe {
            configure_rows(rows);
            let (c, step) = room.place();
            let tile = Rows::<1, 1> {
                x: x.as_ptr().cast(),
                rows,
                w: panel.as_ptr().cast(),
                c,
                step,
                fresh: true,
            };
            tile.run::<Bf16>(steps, Nothing, &mut none);
            release();
            Sums::<Bf16>::new(&mut room, rows, own, false).all();
        }
    }

    #[test]
    fn tiles_multiply() {
        if !is_usable() {
            eprintln!("skipped: no AMX here");
            return;
        }
        for rows in [1, 7, 16, 17, 32] {
            let steps = 3;
            let k = steps * 32;
            let x: Vec<bf16> = (0..rows * k)
                .map(|i| bf16::from_f32((i * 7 % 23) as f32 - 11.0))
                .collect();
            // Column j of k i.
            let w = |i: usize, j: usize| ((i * 5 + j * 3) % 17) as f32 - 8.0;
            let panel: Vec<bf16> = (0..k / 2)
                .flat_map(|p| (0..32).flat_map(move |j| [2 * p, 2 * p + 1].map(|i| (i, j))))
                .map(|(i, j)| bf16::from_f32(w(i, j)))
                .collect();
            let lines: Vec<bf16> = (0..steps)
                .flat_map(|s| (0..rows).map(move |r| (s, r)))
                .flat_map(|(s, r)| x[r * k + s * 32..][..32].to_vec())
                .collect();
            let mut c = vec![1.0f32; rows * 40];
            // SAFETY: tiles are usable, with AVX-512, and the buffers as large as they are said to be.
            unsafe { product(&lines, rows, steps, &panel, &mut c) };
            for r in 0..rows {
                for j in 0..32 {
                    let sum: f32 = (0..k).map(|i| x[r * k + i].to_f32() * w(i, j)).sum();
                    assert_eq!(c[r * 40 + j], sum + 1.0, "row {r}, column {j}");
                }
                assert_eq!(c[r * 40 + 32..][..8], [1.0; 8]);
            }
        }
    }
}
