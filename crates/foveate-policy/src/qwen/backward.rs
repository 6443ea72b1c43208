//! Gradients of attention over a packed pass.
//!
//! With the weights P = exp(scale q k^T - lse) of a row, lse being the log-sum-exp over all that it sees, each set of
//! columns adds its own part (Dao 2023, arXiv 2307.08691, section 3.1.2):
//!   dV = P^T dO,  dS = P * (dO V^T - rowsum(dO * O)),  dQ = scale dS K,  dK = scale dS^T Q
//! so the gradients at a prompt's keys and values are the sums over its own rows and those of all completions, exactly.

use tch::Tensor;

use super::{
    attention::{Attended, Sees, joined, repeated},
    frames::held_elements,
    pack::{GroupRows, OwnRows, Pack},
    wide, wide_baddbmm, wide_bmm,
};
use crate::head::chunks;

/// Rows at a time below which a GPU would have too little to do.
const FEW_ROWS: i64 = 256;

/// Gradients at q `[N, H, E]` and k, v `[N, K, E]`, given that at the output `[N, H, E]`.
pub(crate) fn attend_backward(pack: &Pack, qkv: [&Tensor; 3], attended: &Attended, at_out: &Tensor) -> [Tensor; 3] {
    let mut gradients = [Vec::new(), Vec::new(), Vec::new()];
    for group in &pack.groups {
        let [q, k, v, out] = [qkv[0], qkv[1], qkv[2], &attended.out].map(|x| group.of(&x.detach()));
        let rows = Rows { q, out, lse: group.of(&attended.lse), at_out: group.of(at_out) };
        let found = group_backward(group, &rows, [&k, &v]);
        gradients.iter_mut().zip(found).for_each(|(all, part)| all.push(part));
    }
    gradients.map(joined)
}

/// Rows `[R, ..]` of queries with what attention gave for them.
struct Rows {
    q: Tensor,      // [R, H, E]
    out: Tensor,    // [R, H, E]
    lse: Tensor,    // [R, H]
    at_out: Tensor, // [R, H, E]
}

impl Rows {
    fn map(&self, change: impl Fn(&Tensor) -> Tensor) -> Self {
        Self { q: change(&self.q), out: change(&self.out), lse: change(&self.lse), at_out: change(&self.at_out) }
    }
}

fn group_backward(group: &GroupRows, rows: &Rows, [k, v]: [&Tensor; 2]) -> [Tensor; 3] {
    let columns = [k, v].map(|x| x.narrow(0, 0, group.prompt));
    let columns = [&columns[0], &columns[1]];
    let prompt = backward(&rows.map(|x| x.narrow(0, 0, group.prompt)), columns, Sees::Causally);
    let Some(own) = &group.own else { return prompt };
    let of_own = |x: &Tensor| x.narrow(0, group.prompt, own.rows);
    let rows = rows.map(of_own);
    let [at_q, at_k, at_v] = backward(&rows, columns, Sees::All);
    let [own_q, own_k, own_v] = own_backward(own, &rows, [&of_own(k), &of_own(v)]);
    let [prompt_q, prompt_k, prompt_v] = prompt;
    [(prompt_q, at_q + own_q), (prompt_k + at_k, own_k), (prompt_v + at_v, own_v)]
        .map(|(prompt, own)| Tensor::cat(&[prompt, own], 0))
}

/// Of one sequence's rows over columns `[S, K, E]`: gradients at q `[R, H, E]`, k and v `[S, K, E]`.
fn backward(rows: &Rows, [k, v]: [&Tensor; 2], sees: Sees) -> [Tensor; 3] {
    let shared = rows.q.size()[1] / k.size()[1];
    // Query heads that share keys and values are a batch: [R, H, ..] -> [H/K, K, R, ..].
    let spread = |x: &Tensor| {
        let mut shape = x.size();
        shape.splice(1..2, [shape[1] / shared, shared]);
        let x = x.view(shape.as_slice());
        if shape.len() == 4 { x.permute([2, 1, 0, 3]) } else { x.permute([2, 1, 0]) }
    };
    let [k, v] = [k, v].map(|x| x.transpose(0, 1).unsqueeze(0).expand([shared, -1, -1, -1], false));
    let [at_q, at_k, at_v] = kernel_backward(&rows.map(spread), [&k, &v], sees);
    let summed = |x: Tensor| x.sum_dim_intlist([0].as_slice(), false, x.kind()).transpose(0, 1);
    [at_q.permute([2, 1, 0, 3]).reshape(rows.q.size()), summed(at_k), summed(at_v)]
}

/// Of every completion's rows over itself.
fn own_backward(own: &OwnRows, rows: &Rows, [k, v]: [&Tensor; 2]) -> [Tensor; 3] {
    let (kv_heads, width) = (k.size()[1], k.size()[2]);
    let shared = rows.q.size()[1] / kv_heads;
    let heads = |x: &Tensor| match x.dim() {
        3 => own.pad(x).transpose(1, 2),
        _ => own.pad(&x.unsqueeze(-1)).squeeze_dim(-1).transpose(1, 2),
    };
    let [k, v] = [k, v].map(|x| repeated(&own.pad(x), shared).transpose(1, 2)); // [G, H, T, E]
    let [at_q, at_k, at_v] = kernel_backward(&rows.map(heads), [&k, &v], Sees::Causally);
    let summed = |x: Tensor| {
        let x = x.view([own.completions, kv_heads, shared, own.longest, width]);
        own.unpad(&x.sum_dim_intlist([2].as_slice(), false, x.kind()).transpose(1, 2))
    };
    [own.unpad(&at_q.transpose(1, 2)), summed(at_k), summed(at_v)]
}

/// Gradients at q, k, v `[B, H, S, E]`.
fn kernel_backward(rows: &Rows, [k, v]: [&Tensor; 2], sees: Sees) -> [Tensor; 3] {
    let Rows { q, out, lse, at_out } = rows;
    if q.device().is_cuda() {
        return explicit_backward(rows, [k, v], sees, held_elements(q.device()));
    }
    let causal = sees == Sees::Causally;
    let (at_q, at_k, at_v) = Tensor::internal_scaled_dot_product_flash_attention_for_cpu_backward::<&Tensor>(
        at_out,
        q,
        k,
        v,
        out,
        lse,
        0.0,
        causal,
        None,
        None::<f64>,
    );
    [at_q, at_k, at_v]
}

/// The same by explicit weights, at most `elements` of them at a time. Scores are in f32 (rounded to bf16 they would not fit
/// their log-sum-exp); of bf16 factors, weights and their gradients are rounded to bf16 before products, as in fused kernels.
fn explicit_backward(rows: &Rows, [k, v]: [&Tensor; 2], sees: Sees, elements: i64) -> [Tensor; 3] {
    let kind = k.kind();
    let (heads, columns) = (rows.q.size()[..2].to_vec(), k.size()[2]);
    let scale = (k.size()[3] as f64).powf(-0.5);
    let rows = rows.map(|x| x.flatten(0, 1));
    let [k, v] = [k, v].map(|x| aligned(x).flatten(0, 1)); // [B H, S and some zeros, E]
    let padded = k.size()[1];
    let bias = rows.lse.neg().unsqueeze(-1);
    let at_bias = (wide(&rows.at_out) * wide(&rows.out)).sum_dim_intlist(-1, true, bias.kind()).neg(); // [B H, R, 1]
    let [at_k, at_v] = [(); 2].map(|()| k.zeros_like().to_kind(bias.kind()));
    let mut at_q = Vec::new();
    let (batch, count) = (k.size()[0], rows.q.size()[1]);
    let held = (elements / (batch * padded).max(1)).max(1);
    // A chunk of rows forms the columns that its last row sees: in fewer rows there is less that the others do not see.
    let held = if sees == Sees::Causally { held.min((count / 8).max(FEW_ROWS)) } else { held };
    for (start, count) in chunks(count, held) {
        let part = rows.map(|x| x.narrow(1, start, count));
        let [bias, at_bias] = [&bias, &at_bias].map(|x| x.narrow(1, start, count));
        let seen = if sees == Sees::Causally { multiple(start + count).min(padded) } else { padded };
        let [k, v, mut at_k, mut at_v] = [&k, &v, &at_k, &at_v].map(|x| x.narrow(1, 0, seen));
        let mut weights = wide_baddbmm(&bias, &part.q, &k.transpose(1, 2), scale).exp_();
        // Filled, not multiplied: the weight of a column that a row does not see may be infinite.
        if sees == Sees::Causally {
            weights = weights.tril_(start);
        } else {
            let _ = weights.narrow(2, columns, padded - columns).zero_();
        }
        let at_scores = wide_baddbmm(&at_bias, &part.at_out, &v.transpose(1, 2), 1.0).multiply_(&weights).to_kind(kind);
        at_v += wide_bmm(&weights.to_kind(kind).transpose(1, 2), &part.at_out);
        at_k += wide_bmm(&at_scores.transpose(1, 2), &part.q) * scale;
        at_q.push((wide_bmm(&at_scores, &k) * scale).to_kind(kind));
    }
    let [at_k, at_v] = [at_k, at_v].map(|x| x.narrow(1, 0, columns).to_kind(kind));
    [Tensor::cat(&at_q, 1), at_k, at_v].map(|x| x.unflatten(0, heads.as_slice()))
}

/// Columns `[B, H, S, E]` with zeros behind them: the rows of weights over them then begin where cuBLAS's fast kernels for
/// bf16 need them to, at multiples of 16 bytes.
fn aligned(x: &Tensor) -> Tensor {
    let [batch, heads, columns, width] = [0, 1, 2, 3].map(|dim| x.size()[dim]);
    let aligned = Tensor::zeros([batch, heads, multiple(columns), width], (x.kind(), x.device()));
    aligned.narrow(2, 0, columns).copy_(x);
    aligned
}

fn multiple(columns: i64) -> i64 {
    (columns as u64).next_multiple_of(8) as i64
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind};

    use super::*;
    use crate::qwen::attention::{AttentionMode, attend};

    fn randn(shape: &[i64]) -> Tensor {
        Tensor::randn(shape, (Kind::Float, Device::Cpu))
    }

    fn close(found: &Tensor, expected: &Tensor) -> bool {
        within(found, expected, 2e-5)
    }

    fn within(found: &Tensor, expected: &Tensor, tolerance: f64) -> bool {
        let difference = (found - expected).abs().max().double_value(&[]);
        difference < tolerance * (1.0 + expected.abs().max().double_value(&[]))
    }

    /// Plain softmax attention of a group, differentiable.
    fn plain(group: &GroupRows, [q, k, v]: &[Tensor; 3]) -> Tensor {
        let (rows, shared) = (group.rows(), q.size()[1] / k.size()[1]);
        let wide = |x: &Tensor, shared: i64| repeated(&x.unsqueeze(0), shared).squeeze_dim(0).transpose(0, 1);
        let mut seen = Tensor::ones([rows, rows], (Kind::Float, Device::Cpu)).tril(0);
        if let Some(own) = &group.own {
            let places =
                own.pad(&Tensor::arange(own.rows, (Kind::Float, Device::Cpu)).view([-1, 1, 1]).g_add_scalar(1.0));
            for other in 0..own.completions {
                let inside = places.get(other).flatten(0, -1);
                let inside = inside.masked_select(&inside.gt(0.0)).to_kind(Kind::Int64) - 1 + group.prompt;
                let mut mask = Tensor::zeros([rows], (Kind::Bool, Device::Cpu));
                let _ = mask.index_fill_(0, &inside, 1.0);
                let outside =
                    mask.logical_not().logical_and(&Tensor::arange(rows, (Kind::Int64, Device::Cpu)).ge(group.prompt));
                let crossed = mask.unsqueeze(1).logical_and(&outside.unsqueeze(0));
                seen = seen.masked_fill(&crossed, 0.0);
            }
        }
        let scores = wide(q, 1).matmul(&wide(k, shared).transpose(-2, -1)) * (q.size()[2] as f64).powf(-0.5);
        let scores = scores.masked_fill(&seen.eq(0.0), f64::NEG_INFINITY);
        scores.softmax(-1, Kind::Float).matmul(&wide(v, shared)).transpose(0, 1)
    }

    #[test]
    fn a_shared_prompt_gets_the_gradient_of_plain_attention() {
        tch::manual_seed(3);
        for lengths in [vec![], vec![1, 1], vec![4, 4, 4], vec![2, 6, 1, 3]] {
            for mode in [AttentionMode::Fused, AttentionMode::Eager] {
                // Two groups in one pack, so that neither sees the other.
                let pack = Pack::new(&[(5, lengths.clone()), (3, vec![3, 2])], Device::Cpu);
                let rows = pack.groups.iter().map(GroupRows::rows).sum();
                let qkv =
                    [(4, 8), (2, 8), (2, 8)].map(|(heads, width)| randn(&[rows, heads, width]).set_requires_grad(true));
                let expected: Vec<_> =
                    pack.groups.iter().map(|g| plain(g, &[0, 1, 2].map(|i| g.of(&qkv[i])))).collect();
                let expected = Tensor::cat(&expected, 0);
                let at_out = randn(&[rows, 4, 8]);
                (&expected * &at_out).sum(Kind::Float).backward();
                let [q, k, v] = &qkv;
                let attended = attend(mode, &pack, [q, k, v], &[]).unwrap();
                assert!(close(&attended.out, &expected), "{mode:?} {lengths:?}");
                let found = attend_backward(&pack, [q, k, v], &attended, &at_out);
                for (name, (found, x)) in ["q", "k", "v"].iter().zip(found.iter().zip(&qkv)) {
                    assert!(close(found, &x.grad()), "{name} {mode:?} {lengths:?}");
                }
            }
        }
    }

    #[test]
    fn explicit_gradients_equal_those_of_the_kernel() {
        tch::manual_seed(4);
        let [near, out, at_out] = [(); 3].map(|()| randn(&[2, 3, 9, 8]));
        // Far apart, the weight of a column that is not there would be infinite.
        let cases = [(0.0, 2e-5), (7.0, 1e-3)].map(|far| [(Sees::All, 7, far), (Sees::Causally, 9, far)]);
        for (sees, columns, (far, tolerance)) in cases.into_iter().flatten() {
            let [k, v] = [(); 2].map(|()| randn(&[2, 3, columns, 8]));
            let (q, k) = (&near + far, k - far);
            let scores = q.matmul(&k.transpose(-2, -1)) * 8_f64.powf(-0.5);
            let lse = scores.logsumexp([-1].as_slice(), false) + 1.0; // as if there were more columns
            let rows = Rows { q: q.copy(), out: out.copy(), lse, at_out: at_out.copy() };
            let kernel = kernel_backward(&rows, [&k, &v], sees);
            // All rows at once, four at a time, one at a time.
            for elements in [held_elements(Device::Cpu), 4 * 2 * 3 * multiple(columns), 1] {
                let explicit = explicit_backward(&rows, [&k, &v], sees, elements);
                for (kernel, explicit) in kernel.iter().zip(&explicit) {
                    assert!(within(explicit, kernel, tolerance), "{sees:?} {elements} {far}");
                }
            }
        }
    }
}
