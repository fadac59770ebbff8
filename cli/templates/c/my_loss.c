/* The transfer loss `my-loss`: the squared difference of the models' mean features. */
#include "tetlo_plugin.h"

static double mean(const double *x, int64_t n) {
  double sum = 0;
  for (int64_t i = 0; i < n; i++) sum += x[i];
  return sum / (double)n;
}

/* The formula: its value, and its gradient in the features that want one (not NULL). */
static int32_t loss(void *self, const tetlo_batch *b, tetlo_gradients *out, char *err, size_t len) {
  (void)err, (void)len;
  double *to_main = out->main, *to_aux = out->aux, offset = *(double *)self;
  int64_t n_main = b->n * b->main.shape[1], n_aux = b->n * b->aux.shape[1];
  double gap = mean(b->main.data, n_main) - mean(b->aux.data, n_aux) - offset;
  for (int64_t i = 0; to_main && i < n_main; i++) to_main[i] = 2 * gap / (double)n_main;
  for (int64_t i = 0; to_aux && i < n_aux; i++) to_aux[i] = -2 * gap / (double)n_aux;
  out->loss = gap * gap;
  return TETLO_OK;
}

static int32_t create(const char *options, void **self, char *err, size_t len) {
  double *offset = malloc(sizeof *offset);
  if (!offset) return tetlo_fail(err, len, "out of memory");
  *offset = tetlo_number(options, "offset", 0);
  *self = offset;
  return TETLO_OK;
}

static const tetlo_transfer_loss LOSS = {
    .name = "my-loss", .summary = "squared gap of the mean features",
    .options_schema = "{\"properties\": {\"offset\": {\"type\": \"number\", \"default\": 0,"
                      " \"description\": \"The difference of the means that costs nothing.\"}}}",
    .create = create, .destroy = free, .loss = loss, .properties = TETLO_INVARIANT_ORDER};
TETLO_TRANSFER_LOSS(LOSS, "0.1.0")
