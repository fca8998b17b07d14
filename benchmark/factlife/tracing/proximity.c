/* Proximity of every (query, key, head) part to the state that it was added to.
 *
 * out[b, t, s, h] = sum over d of |y[b, t, d]| - |y[b, t, d] - w[b, h, t, s] * u[h, b, s, d]|
 *
 * for keys s <= t; the rest of out is left as it is. The part w * u is never stored.
 * u is contiguous; w and out may be a slice of some heads of tensors with all_heads.
 */
#include <math.h>

#define TILE 4 /* queries at a time: each value of u is read once for all of them */

static inline float one(const float *restrict y, const float *restrict u, float w, long width)
{
    float sum = 0.0f;
    for (long d = 0; d < width; d++)
        sum += fabsf(y[d]) - fabsf(y[d] - w * u[d]);
    return sum;
}

static inline void tile(const float *restrict y, const float *restrict u, const float *restrict w,
                        float *restrict sums, long width)
{
    const float *restrict y1 = y + width, *restrict y2 = y1 + width, *restrict y3 = y2 + width;
    const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3];
    float s0 = 0.0f, s1 = 0.0f, s2 = 0.0f, s3 = 0.0f;
    for (long d = 0; d < width; d++) {
        const float v = u[d];
        s0 += fabsf(y[d]) - fabsf(y[d] - w0 * v);
        s1 += fabsf(y1[d]) - fabsf(y1[d] - w1 * v);
        s2 += fabsf(y2[d]) - fabsf(y2[d] - w2 * v);
        s3 += fabsf(y3[d]) - fabsf(y3[d] - w3 * v);
    }
    sums[0] = s0, sums[1] = s1, sums[2] = s2, sums[3] = s3;
}

void proximity(const float *y, const float *w, const float *u, float *out, long prompts,
               long heads, long tokens, long width, long all_heads, long threads)
{
    (void)threads; /* unused without OpenMP */
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (long n = 0; n < prompts * heads; n++) {
        const long b = n / heads, h = n % heads;
        const float *yb = y + b * tokens * width;
        const float *wn = w + (b * all_heads + h) * tokens * tokens;
        const float *un = u + (h * prompts + b) * tokens * width;
        float *on = out + b * tokens * tokens * all_heads + h;
        for (long s = 0; s < tokens; s++) {
            const float *us = un + s * width;
            long t = s;
            for (; t + TILE <= tokens; t += TILE) {
                float weights[TILE], sums[TILE];
                for (int k = 0; k < TILE; k++)
                    weights[k] = wn[(t + k) * tokens + s];
                tile(yb + t * width, us, weights, sums, width);
                for (int k = 0; k < TILE; k++)
                    on[((t + k) * tokens + s) * all_heads] = sums[k];
            }
            for (; t < tokens; t++)
                on[(t * tokens + s) * all_heads] =
                    one(yb + t * width, us, wn[t * tokens + s], width);
        }
    }
}
