//! How products become tasks: lines of x once, then panels of columns in parallel.

use super::{
    acts::row_words,
    kernel::{Block, Blocking, Done, Fill, Kernel, Lines, Source},
    panel::Matrix,
    tile::{LINE, STREAMS},
};
use crate::backend::cpu::{
    matmul::simd::epilogue::Output,
    pool::Pool,
    simd::{Fetch, LONG_STREAM, Scratch},
};
use rustc_hash::FxHashMap;
use std::{
    cell::RefCell,
    ops::Range,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Words of k per block of panels that are filled first.
const WORDS_FILLED: usize = 256;
/// The same where few rows meet them: a panel stays in the first level.
const WORDS_OF_FEW: usize = 128;
/// Rows up to which they are few.
const FEW: usize = 32;
/// Least rows of a group, where there are as many.
const LEAST: usize = 48;
/// Most rows of a group that meets panels that are filled first: more rows make up for it.
const MOST_FILLED: usize = 384;
/// Words of x that a thread holds as lines, where panels are filled for each group.
const LINES_FILLED: usize = 2 << 20;
/// Words of lines of terms that all threads hold, where that is more: panels of terms cost more to
/// make, and lines of them are longer.
const LINES_OF_TERMS: usize = 16 << 20;
/// Panels of an item where the lines of a group are more than the second level of cache holds.
const PANELS_OF_LONG: usize = 8;
/// Words of such lines.
const LONG: usize = 1 << 20;
/// The same where a panel is filled from columns: more of a row is read at once.
const PANELS_OF_COLUMNS: usize = 8;

/// Weights of one matrix.
#[derive(Clone, Copy)]
pub(super) enum Weights {
    /// Panels as the kernel reads them.
    Packed(*const u8),
    /// Rows or columns, and what fills a panel from them.
    Plain(Matrix, Fill),
}

impl Weights {
    /// Are panels filled from columns?
    fn columns(&self) -> bool {
        matches!(self, Weights::Plain(w, _) if w.k_step != 1)
    }
}

/// One matrix of weights and the rows of x that it multiplies.
pub(super) struct Product<'a> {
    pub kernel: &'static Kernel,
    pub w: Weights,
    /// Bytes of a number of weights that are not packed.
    pub size: usize,
    pub n: usize,
    /// Rows of x: positions in [`Rows::starts`].
    pub rows: Range<usize>,
    /// Rows of y, where they do not follow each other from 0.
    pub scatter: Option<&'a [usize]>,
    pub out: Output,
}

// SAFETY: the pointers lead into operands that the op keeps alive; tasks write parts of their own.
unsafe impl Sync for Product<'_> {}

/// Rows of x.
pub(super) struct Rows<'a> {
    pub x: *const u8,
    /// Bytes from x to the first number of each row.
    pub starts: &'a [usize],
    pub k: usize,
    pub lines: Lines,
    /// Numbers in a word.
    pub per_word: usize,
    /// Terms of a number, each in a line of its own.
    pub terms: usize,
}

impl Rows<'_> {
    /// Words of a row's lines.
    fn row_words(&self) -> usize {
        row_words(self.k, self.per_word) * self.terms
    }
}

// SAFETY: x is only read.
unsafe impl Sync for Rows<'_> {}

/// Rows of x that a thread makes lines of, and what they multiply.
struct Group {
    /// First row, in [`Rows::starts`], and rows.
    start: usize,
    m: usize,
    /// Rows of a tile.
    height: usize,
    items: Vec<Item>,
    /// The next item to be taken.
    next: AtomicUsize,
}

/// Some panels of a product.
struct Item {
    product: usize,
    panel: usize,
    panels: usize,
}

thread_local! {
    static LINE_SCRATCH: RefCell<Scratch> = RefCell::default();
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// Rows of a group when `m` rows meet `n` columns of panels that are `packed`, most of them: groups
/// that threads have for themselves save the others from making its lines, but every group fills
/// all panels that are not packed, and makes their terms.
fn group_rows(
    m: usize,
    n: usize,
    kernel: &Kernel,
    packed: bool,
    threads: usize,
    row_words: usize,
) -> usize {
    let is_split = kernel.terms.is_some();
    let Blocking {
        group,
        shared,
        lines,
        ..
    } = kernel.packed;
    let groups = if !packed || is_split {
        (m * threads / n.max(1)).isqrt().max(1)
    } else if m <= Blocking::FEW && 4 * n * row_words >= shared {
        1
    } else {
        threads
    };
    let most = if packed || is_split {
        group
    } else {
        MOST_FILLED
    };
    let lines = if is_split {
        lines.max(LINES_OF_TERMS / threads)
    } else if packed {
        lines
    } else {
        LINES_FILLED
    };
    let most = most.min((lines / row_words).max(1));
    m.div_ceil(groups).clamp(LEAST.min(most), most)
}

/// `m` in parts as equal as can be, none above `most`.
fn part(m: usize, most: usize) -> usize {
    m.div_ceil(m.div_ceil(most).max(1)).max(1)
}

/// Runs the products.
///
/// # Safety
/// Everything leads into live operands; no two products write the same cells; the kernels are of
/// one instruction set, which the CPU has.
pub(super) unsafe fn run(pool: &Pool, rows: &Rows<'_>, products: &[Product<'_>]) {
    let row_words = rows.row_words();
    let threads = pool.threads();
    let panels: usize = products
        .iter()
        .map(|p| p.n.div_ceil(p.kernel.columns))
        .sum();
    let mut groups: Vec<Group> = Vec::new();
    let mut known: FxHashMap<usize, Range<usize>> = FxHashMap::default();
    let mut work = 0;
    for (product, p) in products.iter().enumerate() {
        let m = p.rows.len();
        let own = known.entry(p.rows.start).or_insert_with(|| {
            let first = groups.len();
            let n = products
                .iter()
                .filter(|q| q.rows == p.rows)
                .map(|q| q.n)
                .sum();
            let packed = matches!(p.w, Weights::Packed(_));
            let most = p.kernel.most[0];
            let height = part(m, most).next_multiple_of(p.kernel.packed.rows);
            let rows = part(m, group_rows(m, n, p.kernel, packed, threads, row_words));
            for m0 in (0..m).step_by(rows.next_multiple_of(height)) {
                groups.push(Group {
                    start: p.rows.start + m0,
                    m: rows.next_multiple_of(height).min(m - m0),
                    height,
                    items: Vec::new(),
                    next: AtomicUsize::new(0),
                });
            }
            first..groups.len()
        });
        work += m.max(4) * p.n * row_words;
        let most = if p.w.columns() {
            PANELS_OF_COLUMNS
        } else if m.div_ceil(own.len()) * row_words > LONG {
            PANELS_OF_LONG
        } else {
            p.kernel.packed.panels
        };
        let count = p.n.div_ceil(p.kernel.columns);
        let items = match p.w {
            Weights::Packed(_) if p.kernel.packed.streams && m <= 2 * STREAMS => {
                let bytes = (p.kernel.panel_bytes)(rows.k).max(1);
                let long = LONG_STREAM
                    .div_ceil(bytes)
                    .next_multiple_of(2)
                    .min(panels.div_ceil(threads));
                let items = count / long.max(1);
                let even = if count == panels { threads } else { 1 };
                items.max(1).next_multiple_of(even).min(count)
            }
            _ => {
                let step = (panels * own.len() / (threads * p.kernel.packed.items)).clamp(1, most);
                // Few rows go by pairs of panels.
                let even = if m <= p.kernel.most[1] { 2 } else { 1 };
                count.div_ceil(step.next_multiple_of(even))
            }
        };
        for group in &mut groups[own.clone()] {
            group.items.extend((0..items).map(|i| {
                let panel = count * i / items;
                Item {
                    product,
                    panel,
                    panels: count * (i + 1) / items - panel,
                }
            }));
        }
    }
    // A guess: 32 products of words a nanosecond.
    pool.parallel(threads, work as u64 / 32, |slots| {
        for slot in slots {
            for i in 0..groups.len() {
                // Each slot begins elsewhere, then looks for what others left.
                let group = &groups[(slot * groups.len() / threads + i) % groups.len()];
                // SAFETY: the caller's contract; every item is taken once.
                unsafe { group.work(rows, products, row_words) };
            }
        }
    });
}

impl Group {
    /// Makes lines of the rows, by tiles.
    ///
    /// # Safety
    /// As for [`run`]; there is room for them.
    unsafe fn lines(&self, rows: &Rows<'_>, to: *mut f32) -> *const u32 {
        let x = to.cast::<u32>();
        for m0 in (0..self.m).step_by(self.height) {
            let count = self.height.min(self.m - m0);
            let starts = &rows.starts[self.start + m0..][..count];
            // SAFETY: rows of x, and lines of their own.
            unsafe { (rows.lines)(rows.x, starts, rows.k, x.add(m0 * rows.row_words())) };
        }
        x
    }

    /// Takes items until there are none.
    ///
    /// # Safety
    /// As for [`run`].
    unsafe fn work(&self, rows: &Rows<'_>, products: &[Product<'_>], row_words: usize) {
        let take = || self.items.get(self.next.fetch_add(1, Ordering::Relaxed));
        let Some(mut item) = take() else { return };
        LINE_SCRATCH.with_borrow_mut(|lines| {
            SCRATCH.with_borrow_mut(|scratch| {
                // SAFETY: the caller's contract; room for the lines.
                let x = unsafe { self.lines(rows, lines.take(self.m * row_words)) };
                loop {
                    // SAFETY: the lines are those of the group.
                    unsafe { item.run(self, &products[item.product], rows, x, row_words, scratch) };
                    match take() {
                        Some(next) => item = next,
                        None => return,
                    }
                }
            });
        });
    }
}

impl Item {
    /// # Safety
    /// `x` has the lines of the group's rows; the rest as for [`run`].
    unsafe fn run(
        &self,
        group: &Group,
        p: &Product<'_>,
        rows: &Rows<'_>,
        x: *const u32,
        row_words: usize,
        scratch: &mut Scratch,
    ) {
        let (kernel, m) = (p.kernel, group.m);
        let (columns, k) = (kernel.columns, rows.k);
        let words = k.div_ceil(rows.per_word);
        let (plain, straight) = (p.out.is_plain(), p.out.is_straight());
        let terms = kernel.terms.as_ref();
        let streams = kernel.packed.streams
            && matches!(p.w, Weights::Packed(_))
            && group.height <= STREAMS
            && m <= 2 * group.height;
        let most = match p.w {
            _ if terms.is_some() => {
                let most = kernel.packed.words[usize::from(m > Blocking::FEW)];
                // One block a quarter longer rather than two.
                most + if words <= most * 5 / 4 { most / 4 } else { 0 }
            }
            // The panel streams by once.
            Weights::Packed(_)
                if streams || m <= group.height || words <= kernel.packed.words[0] =>
            {
                words
            }
            Weights::Plain(..) if m <= FEW || p.w.columns() => WORDS_OF_FEW,
            Weights::Plain(..) => WORDS_FILLED,
            Weights::Packed(_) => kernel.packed.words[usize::from(m > Blocking::FEW)],
        };
        // Blocks of whole lines, so that a short one need not fetch all of the next.
        let block = part(words, most).next_multiple_of(LINE.max(kernel.step));
        // Panels that a tile meets at once.
        let wide = if m <= kernel.most[1] { 2 } else { 1 };
        // An odd number of vectors: rows of sums spread over the sets of a cache.
        let ld = self.panels * columns + 16;
        // Words of the terms of a block of a panel.
        let split = terms.map_or(0, |t| t.w * block * columns);
        let panel_bytes = match p.w {
            Weights::Packed(_) => (kernel.panel_bytes)(k),
            Weights::Plain(..) if split > 0 => 4 * split,
            // Apart, so that rows of panels do not meet in the sets of a cache.
            Weights::Plain(..) => (block.min(row_words) / kernel.step + 1) * kernel.step_bytes,
        };
        let widened = kernel
            .wide
            .filter(|_| m > FEW && matches!(p.w, Weights::Packed(_)));
        let filled = match p.w {
            Weights::Packed(_) if widened.is_some() => block * columns,
            Weights::Packed(_) => split,
            Weights::Plain(..) => panel_bytes / 4,
        };
        // Sums, zeros, panels; all whole cache lines.
        let at_once = if p.w.columns() { self.panels } else { wide };
        let c = scratch.take(m * ld + ld + at_once * filled);
        let again = RefCell::default();
        // SAFETY: the scratch has the parts; panels and rows exist.
        unsafe {
            let zeros = c.add(m * ld);
            let own = zeros.add(ld).cast::<u8>();
            if kernel.zeros.is_some() || kernel.integers {
                self.zeros(p, k, zeros);
            }
            for word0 in (0..words).step_by(block) {
                let len = block.min(words - word0);
                for turn in 0..self.panels.div_ceil(wide) {
                    // Panels that stream come from a span each, so that memory sees long streams.
                    let (i, apart) = if streams && wide == 2 {
                        (turn, self.panels.div_ceil(2))
                    } else {
                        (turn * wide, 1)
                    };
                    let two = wide == 2 && i + apart < self.panels;
                    let n0 = (self.panel + i) * columns;
                    let n = p.n - n0;
                    let panel = match p.w {
                        Weights::Packed(w) => {
                            let at = word0 / kernel.step * kernel.step_bytes;
                            let at = w.add((self.panel + i) * panel_bytes + at);
                            let k = k - word0 * rows.per_word;
                            match (widened, terms.map(|t| t.source)) {
                                (Some((_, widen)), _) => {
                                    widen(at, len.div_ceil(kernel.step), own.cast());
                                    own.cast_const()
                                }
                                (None, Some(Source::Panel(split))) => {
                                    split(at, k.min(len * rows.per_word), own.cast());
                                    own.cast_const()
                                }
                                _ => at,
                            }
                        }
                        Weights::Plain(w, fill) if i % at_once == 0 => {
                            let k0 = word0 * rows.per_word;
                            let k = (len * rows.per_word).min(k - k0);
                            let count = at_once.min(self.panels - i);
                            let n = n.min(count * columns);
                            let fill = match terms.map(|t| t.source) {
                                Some(Source::Fill(fill)) => fill,
                                _ => fill,
                            };
                            fill(w, n0, n, k0, k, own.cast(), columns, filled);
                            if let Some(add) = kernel.zeros {
                                for j in 0..count {
                                    let zeros = zeros.add((i + j) * columns);
                                    let panel = own.add(j * panel_bytes);
                                    add(panel, len.div_ceil(kernel.step), zeros);
                                }
                            }
                            own.cast_const()
                        }
                        Weights::Plain(..) => own.add(i % at_once * panel_bytes).cast_const(),
                    };
                    let tiles = widened.map_or(kernel.tiles, |(wide, _)| wide.tiles);
                    tiles(Block {
                        x,
                        row_words,
                        word0,
                        words: len,
                        panel,
                        panel_step: apart * panel_bytes,
                        two,
                        fetch: if streams {
                            Fetch::NONE
                        } else {
                            self.fetch(group, p, rows, (word0, block), (i, wide))
                        },
                        streams,
                        c: c.add(turn * wide * columns),
                        ld,
                        rows: m,
                        height: group.height,
                        done: (word0 + len == words).then_some(Done {
                            out: &p.out,
                            scatter: p.scatter,
                            m0: group.start - p.rows.start,
                            n0,
                            n: if two && apart == 1 {
                                n.min(2 * columns)
                            } else {
                                n.min(columns)
                            },
                            beside: (two && apart > 1).then(|| {
                                let more = apart * columns;
                                (n0 + more, (n - more).min(columns))
                            }),
                            zeros: zeros.add(i * columns),
                            plain,
                            straight,
                            again: &again,
                        }),
                    });
                    for m in again.take() {
                        self.again(group, p, rows, i, m);
                    }
                }
            }
        }
    }

    /// Row `m` by panel `i`, where sums are not finite, by the kernel that computes them as they
    /// are.
    ///
    /// # Safety
    /// As for [`run`].
    #[cold]
    unsafe fn again(&self, group: &Group, p: &Product<'_>, rows: &Rows<'_>, i: usize, m: usize) {
        let Some(terms) = &p.kernel.terms else { return };
        let group = Group {
            start: group.start + m,
            m: 1,
            height: 1,
            items: Vec::new(),
            next: AtomicUsize::new(0),
        };
        let rows = Rows {
            lines: terms.lines,
            per_word: terms.exact.per_word,
            terms: 1,
            ..*rows
        };
        let p = Product {
            kernel: terms.exact,
            rows: p.rows.clone(),
            ..*p
        };
        let item = Item {
            product: self.product,
            panel: self.panel + i,
            panels: 1,
        };
        let (mut lines, mut scratch) = (Scratch::default(), Scratch::default());
        // SAFETY: the caller's contract; the panel is one that `exact` reads.
        unsafe {
            let x = group.lines(&rows, lines.take(rows.row_words()));
            item.run(&group, &p, &rows, x, rows.row_words(), &mut scratch);
        }
    }

    /// What comes after block `word0` of `block` words of panel `i` (and the next, if `wide` is 2).
    fn fetch(
        &self,
        group: &Group,
        p: &Product<'_>,
        rows: &Rows<'_>,
        (word0, block): (usize, usize),
        (i, wide): (usize, usize),
    ) -> Fetch {
        let kernel = p.kernel;
        let words = rows.k.div_ceil(rows.per_word);
        let tiles = group.m.div_ceil(group.height);
        if let (Weights::Packed(w), 1, None) = (p.w, tiles, &kernel.terms) {
            // The panel streams by once.
            let at = w.wrapping_add((self.panel + i) * (kernel.panel_bytes)(rows.k));
            return Fetch {
                at,
                pace: (4 / kernel.step * kernel.step_bytes).div_ceil(64),
                streams: true,
                ..Fetch::NONE
            };
        }
        // Panels of an item go by for each block, then the next block.
        let (next, panel) = match (i + wide < self.panels, word0 + block < words) {
            (true, _) => (word0, i + wide),
            (false, true) => (word0 + block, 0),
            (false, false) => (0, self.panels),
        };
        let panel = self.panel + panel;
        let len = block.min(words - next);
        // All but the last of the tiles' lines take part.
        let paces = (tiles * (block.min(words - word0) / 4)).max(1);
        match p.w {
            Weights::Packed(w) => {
                let at = panel * (kernel.panel_bytes)(rows.k);
                let bytes = len / kernel.step * kernel.step_bytes;
                Fetch {
                    at: w.wrapping_add(at + next / kernel.step * kernel.step_bytes),
                    pace: (bytes / 64).div_ceil(paces),
                    // Few rows leave more of a panel than the first level holds.
                    near: kernel.packed.near && group.m > FEW,
                    ..Fetch::NONE
                }
            }
            // Filling fetches by itself.
            Weights::Plain(..) if p.w.columns() => Fetch::NONE,
            Weights::Plain(w, _) => {
                let size = p.size;
                let (n0, k0) = (panel * kernel.columns, next * rows.per_word);
                let at = w.start.wrapping_add((n0 * w.n_step + k0 * w.k_step) * size);
                let len = len * rows.per_word;
                let row = (len * size).div_ceil(64);
                Fetch {
                    at,
                    left: row,
                    row,
                    gap: (w.n_step * size).wrapping_sub(row * 64),
                    pace: (kernel.columns * wide * row).div_ceil(paces),
                    near: false,
                    streams: false,
                }
            }
        }
    }

    /// What zeros of x add to each column of packed panels; zeros of other panels.
    ///
    /// # Safety
    /// `zeros` has room for the columns; the rest as for [`run`].
    unsafe fn zeros(&self, p: &Product<'_>, k: usize, zeros: *mut f32) {
        let columns = p.kernel.columns;
        // SAFETY: the caller's contract; packed sums end each panel.
        unsafe {
            zeros.write_bytes(0, self.panels * columns);
            if let (Weights::Packed(w), true) = (p.w, p.kernel.zeros.is_some()) {
                let bytes = (p.kernel.panel_bytes)(k);
                for i in 0..self.panels {
                    let from = w.add((self.panel + i + 1) * bytes - 4 * columns);
                    let to = zeros.add(i * columns).cast::<u8>();
                    std::ptr::copy_nonoverlapping(from, to, 4 * columns);
                }
            }
        }
    }
}
