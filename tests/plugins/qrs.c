/* Quadruple relative similarities in C, with the gradient by hand: cosine similarities, soft targets,
 * random quadruples, as the built-in `qrs` draws them.
 *
 * With z = x / |x|, S = z z', d(q) = S[i, j] - S[k, l] of a quadruple, p = sigma(d / tau):
 *   loss = -mean [ p_M log p_V + (1 - p_M) log(1 - p_V) ]
 *   d loss / d d_V = (p_V - p_M) / (tau Q),   d loss / d d_M = -d_V p_M (1 - p_M) / (tau^2 Q)
 *   d loss / d x = (g - (g . z) z) / |x|  with g = d loss / d z = (G + G') z,  G = d loss / d S. */
#include "tetlo_plugin.h"
#include <math.h>

static int32_t create(const char *options, void **self, char *err, size_t len) {
  double *tau = malloc(sizeof *tau);
  if (!tau) return tetlo_fail(err, len, "out of memory");
  *tau = tetlo_number(options, "temperature", 0.1);
  *self = tau;
  return TETLO_OK;
}

static double softplus(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }

/* Rows of unit length, and their similarities. */
static void similarities(const double *x, int64_t n, int64_t d, double *norm, double *z, double *s) {
  for (int64_t i = 0; i < n; i++) {
    double sum = 0;
    for (int64_t c = 0; c < d; c++) sum += x[i * d + c] * x[i * d + c];
    norm[i] = sqrt(sum > 1e-16 ? sum : 1e-16);
    for (int64_t c = 0; c < d; c++) z[i * d + c] = x[i * d + c] / norm[i];
  }
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = 0; j < n; j++) {
      double sum = 0;
      for (int64_t c = 0; c < d; c++) sum += z[i * d + c] * z[j * d + c];
      s[i * n + j] = sum;
    }
}

/* From the gradient in S to the gradient in x. */
static void back(const double *g, int64_t n, int64_t d, const double *norm, const double *z, double *out) {
  for (int64_t i = 0; i < n; i++) {
    double *row = out + i * d, along = 0;
    for (int64_t j = 0; j < n; j++) {
      double w = g[i * n + j] + g[j * n + i];
      if (w == 0) continue;
      for (int64_t c = 0; c < d; c++) row[c] += w * z[j * d + c];
    }
    for (int64_t c = 0; c < d; c++) along += row[c] * z[i * d + c];
    for (int64_t c = 0; c < d; c++) row[c] = (row[c] - along * z[i * d + c]) / norm[i];
  }
}

static int32_t loss(void *self, const tetlo_batch *b, tetlo_gradients *out, char *err, size_t len) {
  const double tau = *(const double *)self;
  const int64_t n = b->n, dm = b->main.shape[1], da = b->aux.shape[1], pairs = n * (n - 1) / 2, count = 4 * n;
  double *memory = calloc((size_t)(4 * n * n + 2 * n + n * (dm + da)), sizeof *memory);
  uint32_t *pair = malloc((size_t)(pairs > 0 ? pairs : 1) * sizeof *pair);
  if (!memory || !pair) {
    free(memory), free(pair);
    return tetlo_fail(err, len, "out of memory");
  }
  double *sm = memory, *sa = sm + n * n, *gm = sa + n * n, *ga = gm + n * n, *nm = ga + n * n, *na = nm + n;
  double *zm = na + n, *za = zm + n * dm;
  similarities(b->main.data, n, dm, nm, zm, sm);
  similarities(b->aux.data, n, da, na, za, sa);
  int64_t p = 0;
  for (int64_t i = 0; i < n; i++)
    for (int64_t j = i + 1; j < n; j++) pair[p++] = (uint32_t)(i * n + j);
  tetlo_stream draws = b->draws;
  double sum = 0;
  for (int64_t q = 0; q < count && pairs > 1; q++) {
    uint32_t first = tetlo_below(&draws, (uint32_t)pairs), second = tetlo_below(&draws, (uint32_t)pairs - 1);
    if (second == first) second = (uint32_t)pairs - 1;
    uint32_t f = pair[first], s = pair[second];
    double d_main = (sm[f] - sm[s]) / tau, d_aux = (sa[f] - sa[s]) / tau;
    double p_main = 1 / (1 + exp(-d_main)), p_aux = 1 / (1 + exp(-d_aux));
    sum += p_main * softplus(-d_aux) + (1 - p_main) * softplus(d_aux);
    double slope = (p_aux - p_main) / (tau * (double)count);
    ga[f] += slope, ga[s] -= slope;
    slope = -d_aux * p_main * (1 - p_main) / (tau * (double)count);
    gm[f] += slope, gm[s] -= slope;
  }
  out->loss = sum / (double)count;
  if (out->main) back(gm, n, dm, nm, zm, out->main);
  if (out->aux) back(ga, n, da, na, za, out->aux);
  free(memory), free(pair);
  return TETLO_OK;
}

static const tetlo_transfer_loss QRS = {
  .name = "qrs-c", .summary = "quadruple relative similarities, in C", .min_batch = 2,
  .options_schema = "{\"properties\": {\"temperature\": {\"type\": \"number\", \"exclusiveMinimum\": 0, "
                    "\"default\": 0.1, \"description\": \"tau, in units of the similarity.\"}}}",
  .create = create, .destroy = free, .loss = loss,
  .properties = TETLO_INVARIANT_SCALE | TETLO_INVARIANT_ROTATION,
};
TETLO_TRANSFER_LOSS(QRS, "1.0.0")
