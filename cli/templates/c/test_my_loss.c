/* The gradient of `my-loss` against central differences: `make test`. */
#include "tetlo_plugin.h"
#include <math.h>
#include <stdio.h>

enum { IMAGES = 4, MAIN = 5, AUX = 3 };

static const tetlo_transfer_loss *tested;
static void *object;
static double features[IMAGES * MAIN + IMAGES * AUX]; /* the main model's, then the auxiliary's */

static tetlo_tensor matrix(double *data, const int64_t *shape, const int64_t *strides) {
  return (tetlo_tensor){data, TETLO_CPU, 0, TETLO_F64, 2, shape, strides};
}

/* The loss at `features`; its gradient goes to `gradient` unless it is NULL. */
static double value(double *gradient) {
  static const int64_t main_shape[] = {IMAGES, MAIN}, aux_shape[] = {IMAGES, AUX};
  static const int64_t main_strides[] = {MAIN, 1}, aux_strides[] = {AUX, 1};
  char message[256] = "";
  tetlo_batch batch = {.struct_size = sizeof batch, .n = IMAGES};
  batch.main = matrix(features, main_shape, main_strides);
  batch.aux = matrix(features + IMAGES * MAIN, aux_shape, aux_strides);
  tetlo_gradients out = {.struct_size = sizeof out};
  out.main = gradient;
  out.aux = gradient ? gradient + IMAGES * MAIN : NULL;
  if (tested->loss(object, &batch, &out, message, sizeof message) != TETLO_OK) {
    fprintf(stderr, "the loss fails: %s\n", message);
    exit(1);
  }
  return out.loss;
}

int main(void) {
  const double step = 1e-5;
  const size_t n = sizeof features / sizeof *features;
  double gradient[sizeof features / sizeof *features] = {0}, worst = 0;
  char message[256] = "";
  tested = &tetlo_plugin_v1()->transfer_losses[0];
  if (tested->create && tested->create("{}", &object, message, sizeof message) != TETLO_OK) {
    fprintf(stderr, "the loss cannot be made: %s\n", message);
    return 1;
  }
  for (size_t i = 0; i < n; i++) features[i] = sin(1.0 + 2.0 * (double)i);
  value(gradient);
  for (size_t i = 0; i < n; i++) {
    double here = features[i];
    features[i] = here + step;
    double above = value(NULL);
    features[i] = here - step;
    double below = value(NULL);
    features[i] = here;
    worst = fmax(worst, fabs((above - below) / (2 * step) - gradient[i]));
  }
  if (tested->destroy) tested->destroy(object);
  printf("%s: largest error of the gradient %.1e\n", tested->name, worst);
  return worst < 1e-7 ? 0 : 1;
}
