/* tetlo_plugin.h: plugins of tetlo as shared libraries, in any language with a C interface. ABI 1.
 *
 * A library exports one function, tetlo_plugin_v1(), which returns a static description of its
 * plugins. The host calls them with arrays; they give back a value and its gradients.
 *
 * Rules
 * - Arrays are row-major and in the CPU's memory, of one type (see `dtypes`), and live until the
 *   call returns: keep no pointer to them.
 * - Gradient buffers are zeroed by the host; NULL: not wanted. Write d value / d input.
 * - The only source of randomness is `draws` (or `seed`): equal batches must give equal bits.
 * - Return TETLO_OK, or another code with a message in `err` (tetlo_fail does both). Never exit,
 *   never let an exception out, never print to stdout. The host checks that numbers are finite.
 * - One object is never called from two threads at a time; different objects are.
 * - Later versions append fields to the end of structs and never change others. A struct that the
 *   host fills in tells its size in `struct_size`: read nothing behind it. Fields of descriptors
 *   that are left out are zero, and zero always has the meaning given here.
 * - Do not build with -Ofast or -ffast-math: they change arithmetic in the whole process, and the
 *   host refuses the library.
 */
#ifndef TETLO_PLUGIN_H
#define TETLO_PLUGIN_H
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#ifdef __cplusplus
extern "C" {
#endif

#define TETLO_ABI 1u

enum { TETLO_F32 = 0, TETLO_F64 = 1 };      /* types of numbers; 1 << TETLO_F64 in `dtypes` */
enum { TETLO_CPU = 1, TETLO_CUDA = 2 };     /* DLPack's numbers; ABI 1 hands out CPU arrays only */
enum { TETLO_OK = 0, TETLO_ERROR = 1, TETLO_PANIC = 2, TETLO_UNSUPPORTED = 3 };

/* What a loss looks at: `needs`. 0 means TETLO_EMBEDDINGS. */
enum { TETLO_EMBEDDINGS = 1, TETLO_LOGITS = 2, TETLO_MAPS = 4, TETLO_LABELS = 8,
       TETLO_PARAMETERS = 16 /* of its own, to be trained: refused by hosts with ABI 1 */ };

/* What a loss says of itself: `properties`. The invariances are checked by `tetlo plugins check`. */
enum {
  TETLO_DETACHED_MAIN = 1,       /* gives the main model no gradient */
  TETLO_JUMPS = 2,               /* jumps in the main model's features (hard targets) */
  TETLO_INVARIANT_ORDER = 16,    /* to the order of the images */
  TETLO_INVARIANT_SCALE = 32,    /* to a positive factor of one model's embeddings */
  TETLO_INVARIANT_ROTATION = 64, /* to an orthogonal map of one model's embeddings */
  TETLO_INVARIANT_SHIFT = 128    /* to a vector added to one model's embeddings */
};

/* An array: DLPack's fields. data == NULL: absent. Strides are in elements. */
typedef struct {
  void *data;
  int32_t device_type, device_id, dtype, ndim;
  const int64_t *shape, *strides;
} tetlo_tensor;

/* Random numbers: Philox4x32-10 (Salmon et al., SC 2011) with its position. Copy it, then draw:
 * a loss that draws as a built-in does gets the built-in's numbers. */
typedef struct {
  uint32_t key[2], counter[4], block[4], used;
} tetlo_stream;

/* One batch. What `needs` does not name is absent. */
typedef struct {
  uint32_t struct_size, flags;
  uint64_t seed;                          /* differs from step to step; made of `draws` */
  int64_t n;                              /* images */
  tetlo_tensor main, aux;                 /* embeddings [n, d_main] and [n, d_aux] */
  tetlo_tensor main_logits, aux_logits;   /* [n, classes] */
  const int64_t *labels;                  /* [n], or NULL; with logits all of them are < classes */
  int64_t n_main_maps, n_aux_maps;        /* feature maps [n, channels, height, width], */
  const tetlo_tensor *main_maps, *aux_maps; /* from the finest resolution to the coarsest */
  tetlo_stream draws;
} tetlo_batch;

/* Where a loss writes. Buffers have the type and shape of the batch's arrays. */
typedef struct {
  uint32_t struct_size, flags;
  double loss;
  void *main, *aux, *main_logits, *aux_logits;
  void *const *main_maps, *const *aux_maps; /* a buffer (or NULL) a map; NULL: none is wanted */
} tetlo_gradients;

/* What an object says of itself once its options are known. Filled in with the descriptor's. */
typedef struct {
  uint32_t struct_size, needs, min_batch, properties;
} tetlo_needs;

/* `create` gets the options as a JSON object, checked against the schema, all defaults written out;
 * it may set *self to whatever the other functions shall get. NULL: no object (self is NULL).
 * `options_schema`: a JSON schema such as
 *   {"properties": {"scale": {"type": "number", "minimum": 0, "default": 1, "description": "…"}}}
 * NULL: no options. */
typedef int32_t tetlo_create(const char *options_json, void **self, char *err, size_t err_len);
typedef void tetlo_destroy(void *self);

/* A transfer loss: how far the auxiliary model (student) is from what the main model (teacher) knows. */
typedef struct {
  const char *name, *summary, *options_schema;
  uint32_t dtypes, devices;               /* bit masks; 0: TETLO_F64 and TETLO_CPU */
  tetlo_create *create;                   /* or NULL */
  tetlo_destroy *destroy;                 /* or NULL */
  int32_t (*loss)(void *self, const tetlo_batch *batch, tetlo_gradients *out, char *err, size_t err_len);
  uint32_t needs, min_batch;              /* 0: embeddings; 0: 1 */
  uint32_t properties, reserved;
  void (*describe)(void *self, tetlo_needs *needs); /* changes what depends on the options; or NULL */
} tetlo_transfer_loss;

/* Architecture parameters: an array [edges, operations] a kind of cell, and further ones by name. */
typedef struct {
  uint32_t struct_size, flags;
  int64_t epoch, epochs, step;            /* how far the search is: from 0, in all, from 0 */
  int64_t n;
  const char *const *names;               /* such as "alphas_normal"; NULL for a regulariser */
  const tetlo_tensor *alphas;
} tetlo_alphas;

/* A regulariser: a penalty on the architecture parameters. `gradients`: a buffer (or NULL) an array. */
typedef struct {
  uint32_t struct_size, dtypes;
  const char *name, *summary, *options_schema;
  tetlo_create *create;
  tetlo_destroy *destroy;
  int32_t (*penalty)(void *self, const tetlo_alphas *alphas, double *penalty, void *const *gradients,
                     char *err, size_t err_len);
} tetlo_regularizer;

/* What a stopping rule sees: the epochs so far. */
typedef struct {
  uint32_t struct_size, flags;
  int64_t n, epochs;                      /* epochs that have ended; planned in all */
  const char *const *genotypes;           /* [n], the genotype after each epoch as JSON */
  const int64_t *skip_counts;             /* [n], skip connections in it */
  int64_t n_lambda;                       /* dominant eigenvalues, where they were computed */
  const int64_t *lambda_epochs;
  const double *lambda_max;
} tetlo_trace;

/* A stopping rule. Leave *stop_epoch at -1 to go on; else the epoch after which the search ends (the
 * last one so far at most) and the epoch whose cell is returned. */
typedef struct {
  uint32_t struct_size, reserved;
  const char *name, *summary, *options_schema;
  tetlo_create *create;
  tetlo_destroy *destroy;
  int32_t (*stop)(void *self, const tetlo_trace *trace, int64_t *stop_epoch, int64_t *return_epoch,
                  char *err, size_t err_len);
} tetlo_stop_rule;

/* A selection: the genotype for architecture parameters (doubles). `space_json` describes the space
 * (cells, edges with their operations, skeleton, grammar). Write the genotype as JSON with its final
 * NUL to `genotype_json`, at most `capacity` bytes. */
typedef struct {
  uint32_t struct_size, reserved;
  const char *name, *summary, *options_schema;
  tetlo_create *create;
  tetlo_destroy *destroy;
  int32_t (*select)(void *self, const char *space_json, const tetlo_alphas *alphas,
                    char *genotype_json, size_t capacity, char *err, size_t err_len);
} tetlo_selection;

/* A library. */
typedef struct {
  uint32_t abi, struct_size;              /* TETLO_HEADER writes these three */
  uint32_t sizes[4];                      /* sizeof tensor, batch, gradients, transfer_loss */
  const char *built_with;                 /* free text for messages: compiler, libraries, versions */
  size_t n_transfer_losses;
  const tetlo_transfer_loss *transfer_losses;
  const char *version;                    /* of these plugins; NULL: "0" */
  size_t n_regularizers;                  /* the others as arrays of pointers, */
  const tetlo_regularizer *const *regularizers; /* since their structs may grow */
  size_t n_stop_rules;
  const tetlo_stop_rule *const *stop_rules;
  size_t n_selections;
  const tetlo_selection *const *selections;
} tetlo_plugin;

#define TETLO_HEADER TETLO_ABI, sizeof(tetlo_plugin), \
  { sizeof(tetlo_tensor), sizeof(tetlo_batch), sizeof(tetlo_gradients), sizeof(tetlo_transfer_loss) }

#if defined(__GNUC__)
#define TETLO_EXPORT __attribute__((visibility("default")))
#else
#define TETLO_EXPORT
#endif

/* The one symbol that a library exports. */
TETLO_EXPORT const tetlo_plugin *tetlo_plugin_v1(void);

/* ---- Small helpers, all optional ---- */

/* A library of one transfer loss: put it at the end of the file. */
#define TETLO_TRANSFER_LOSS(descriptor, version_text) \
  TETLO_EXPORT const tetlo_plugin *tetlo_plugin_v1(void) { \
    static const tetlo_plugin library = { \
      TETLO_HEADER, "C", 1, &(descriptor), version_text, 0, NULL, 0, NULL, 0, NULL }; \
    return &library; \
  }

/* Writes a message and gives TETLO_ERROR. */
static inline int32_t tetlo_fail(char *err, size_t err_len, const char *message) {
  if (err_len > 0) {
    size_t n = strlen(message);
    if (n >= err_len) n = err_len - 1;
    memcpy(err, message, n);
    err[n] = 0;
  }
  return TETLO_ERROR;
}

/* The place of the value of `key` in the options (a flat object, as the host writes them), or NULL. */
static inline const char *tetlo_option(const char *options_json, const char *key) {
  size_t n = strlen(key);
  int in_text = 0;
  for (const char *p = options_json; *p; p++) {
    if (*p == '\\' && in_text && p[1]) { p++; continue; }
    if (*p != '"') continue;
    if (!in_text && strncmp(p + 1, key, n) == 0 && p[1 + n] == '"' && p[2 + n] == ':') return p + 3 + n;
    in_text = !in_text;
  }
  return NULL;
}

/* A number of the options; `fallback` where it is not there (an option without a default). */
static inline double tetlo_number(const char *options_json, const char *key, double fallback) {
  const char *p = tetlo_option(options_json, key);
  return p && *p != 'n' ? strtod(p, NULL) : fallback;
}

/* Is the option the text `value` (without quotes, `true` and `false` too)? */
static inline int tetlo_is(const char *options_json, const char *key, const char *value) {
  const char *p = tetlo_option(options_json, key);
  if (!p) return 0;
  if (*p == '"') p++;
  size_t n = strlen(value);
  return strncmp(p, value, n) == 0 && (p[n] == '"' || p[n] == ',' || p[n] == '}');
}

/* 32 random bits. */
static inline uint32_t tetlo_next_u32(tetlo_stream *s) {
  if (s->used >= 4) {
    uint32_t c[4], k[2] = { s->key[0], s->key[1] };
    memcpy(c, s->counter, sizeof c);
    for (int round = 0; round < 10; round++) {
      uint64_t a = (uint64_t)0xD2511F53u * c[0], b = (uint64_t)0xCD9E8D57u * c[2];
      uint32_t next[4] = { (uint32_t)(b >> 32) ^ c[1] ^ k[0], (uint32_t)b,
                           (uint32_t)(a >> 32) ^ c[3] ^ k[1], (uint32_t)a };
      memcpy(c, next, sizeof c);
      k[0] += 0x9E3779B9u;
      k[1] += 0xBB67AE85u;
    }
    memcpy(s->block, c, sizeof c);
    s->counter[0]++;
    s->used = 0;
  }
  return s->block[s->used++];
}

/* Uniform on [0, 1), 53 bits. */
static inline double tetlo_uniform(tetlo_stream *s) {
  uint64_t low = tetlo_next_u32(s), bits = low | (uint64_t)tetlo_next_u32(s) << 32;
  return (double)(bits >> 11) * (1.0 / 9007199254740992.0);
}

/* Uniform on 0 … n - 1 without bias; n must not be 0. */
static inline uint32_t tetlo_below(tetlo_stream *s, uint32_t n) {
  uint32_t reject_under = (0u - n) % n;
  for (;;) {
    uint64_t product = (uint64_t)tetlo_next_u32(s) * n;
    if ((uint32_t)product >= reject_under) return (uint32_t)(product >> 32);
  }
}

#ifdef __cplusplus
}
#endif
#endif
