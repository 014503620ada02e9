// The non-linear 4-bit table of IQ4_NL and IQ4_XS, as four signed bytes per word.
fn iq4(n: u32) -> f32 {
    let words = vec4<u32>(0xbfad9881u, 0xf6eaddcfu, 0x26190d01u, 0x71594535u);
    let lo = select(words.x, words.y, (n & 4u) != 0u);
    let hi = select(words.z, words.w, (n & 4u) != 0u);
    let word = select(lo, hi, (n & 8u) != 0u);
    return f32(bitcast<i32>(word << (24u - 8u * (n & 3u))) >> 24u);
}

fn iq4x8(q: vec2<u32>, scale: f32) -> mat2x4<f32> {
    let a = unpack4xU8(q.x);
    let b = unpack4xU8(q.y);
    return scale * mat2x4<f32>(
        vec4<f32>(iq4(a.x), iq4(a.y), iq4(a.z), iq4(a.w)),
        vec4<f32>(iq4(b.x), iq4(b.y), iq4(b.z), iq4(b.w)),
    );
}
