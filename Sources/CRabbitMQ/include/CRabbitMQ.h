// A connection to a broker that speaks AMQP 0-9-1, by Debian's librabbitmq: only what RegisPay needs, in a form that Swift can
// call (the library's log-in takes variable arguments, and its frames are unions).
//
// One thread at a time uses a connection; `crabbit_received` may be called from any thread as long as the socket is not
// closed. No function waits longer than the limits that it names, while the broker keeps to the protocol.
//
// The thread that uses a connection needs a stack of 16 MiB: the library reads nested tables by recursion, and a broker decides
// how deep they are, up to 13,000 levels in the 64 KiB of a frame.
#ifndef CRABBITMQ_H
#define CRABBITMQ_H

#include <stddef.h>
#include <stdint.h>

/// The most bytes of a text from the broker, with its zero at the end. A short string of AMQP has at most 255.
#define CRABBIT_TEXT 256

/// The largest frame, in bytes; larger messages are sent in several.
#define CRABBIT_FRAME 16384

/// The most bytes of the body of a delivery that is handed out; of a longer one nothing is kept.
#define CRABBIT_BODY 65536

typedef struct crabbit crabbit;

typedef enum crabbit_kind {
  /// Nothing has arrived.
  CRABBIT_NOTHING = 0,
  /// The broker has taken the message with `tag`, and all before it if `multiple`.
  CRABBIT_ACK,
  /// The broker has refused it.
  CRABBIT_NACK,
  /// No queue got the message with this id. Its confirm follows.
  CRABBIT_RETURN,
  /// The broker takes no messages for now.
  CRABBIT_BLOCKED,
  CRABBIT_UNBLOCKED,
  /// The broker has closed the channel or the connection. Nothing more comes.
  CRABBIT_CLOSED,
  /// The connection is lost, or the broker broke the protocol. Nothing more comes.
  CRABBIT_LOST,
  /// A message for the consumer with the tag in `text`; `crabbit_body` has its body until the next call, unless `is_long`.
  CRABBIT_DELIVERY,
  /// A part of a message; more follows. So no call lasts as long as a message is.
  CRABBIT_PART,
} crabbit_kind;

typedef struct crabbit_event {
  crabbit_kind kind;
  uint64_t tag;
  int multiple;
  /// The body of the delivery is longer than CRABBIT_BODY.
  int is_long;
  /// The broker's reply code, if it gave one.
  int code;
  /// Why, in UTF-8 if the broker keeps to the protocol.
  char text[CRABBIT_TEXT];
  char message_id[CRABBIT_TEXT];
} crabbit_event;

/// The most headers of a message; further ones are left out.
#define CRABBIT_HEADERS 16

typedef struct crabbit_header {
  const char *name;
  const char *value;
} crabbit_header;

typedef struct crabbit_message {
  const char *exchange;
  const char *content_type;
  const char *message_id;
  const char *correlation_id;
  const crabbit_header *headers;
  size_t header_count;
  const void *body;
  size_t body_bytes;
} crabbit_message;

/// Looks up the host, connects, and speaks TLS if `roots` names a file of root certificates. Each wait but the look-up's is
/// limited by `limit_ms`.
///
/// Returns null after a failure, with the reason in `event`.
crabbit *crabbit_open(const char *host, int port, const char *roots, int limit_ms, crabbit_event *event);

/// Logs in as the program `name` of this version, and opens a channel with publisher confirms. Returns 0, or -1 with the reason in `event`.
int crabbit_login(crabbit *connection, const char *vhost, const char *user, const char *password, const char *name,
                  const char *version, int heartbeat_seconds, crabbit_event *event);

/// Declares a durable fanout exchange, on a channel of its own.
///
/// Returns 0; 1 if the broker refuses, with the reason in `event`; or -1 if the connection is lost.
int crabbit_declare(crabbit *connection, const char *exchange, crabbit_event *event);

/// Sends what `source` gets to `destination` too. Returns as `crabbit_declare`.
int crabbit_bind(crabbit *connection, const char *source, const char *destination, crabbit_event *event);

/// Declares a durable quorum queue. A message that is rejected, or was delivered more often than `delivery_limit` (0 for no limit of
/// ours), goes to the queue `dead_letters`. Returns as `crabbit_declare`.
int crabbit_declare_queue(crabbit *connection, const char *queue, const char *dead_letters, int delivery_limit,
                          crabbit_event *event);

/// Counts what is ready in a queue, and its consumers. Returns as `crabbit_declare`: 1 with the code 404 if there is no such queue.
int crabbit_look_at_queue(crabbit *connection, const char *queue, uint32_t *messages, uint32_t *consumers,
                          crabbit_event *event);

/// Has a queue get what an exchange gets. Returns as `crabbit_declare`.
int crabbit_bind_queue(crabbit *connection, const char *queue, const char *exchange, crabbit_event *event);

/// Has the broker deliver from a queue, at most `prefetch` messages that are not settled, under a consumer tag of the caller's. The first
/// prefetch holds until `crabbit_stop_consuming`. If there is no such queue, `crabbit_next` says so. Returns as `crabbit_declare`.
int crabbit_consume(crabbit *connection, const char *queue, const char *tag, int prefetch, crabbit_event *event);

typedef enum crabbit_settlement {
  CRABBIT_ACKNOWLEDGE,
  /// The broker delivers it again.
  CRABBIT_GIVE_BACK,
  /// The broker moves it to the dead letters.
  CRABBIT_REJECT,
} crabbit_settlement;

/// Settles a delivery, by its tag. Call it when the socket is writable. Returns 0, or -1 if the connection is lost.
int crabbit_settle(crabbit *connection, uint64_t tag, crabbit_settlement settlement, crabbit_event *event);

/// Ends all consumers; what is not settled is given back. Returns 0, or -1 if the connection is lost.
int crabbit_stop_consuming(crabbit *connection, crabbit_event *event);

/// The body of the delivery that `crabbit_next` gave last.
const char *crabbit_body(const crabbit *connection, size_t *bytes);

/// Publishes a persistent message that has to reach a queue. Call it when the socket is writable: then it does not wait. The
/// first message has the tag 1, and each one the next number. Returns 0, or -1 with the reason in `event`.
int crabbit_publish(crabbit *connection, const crabbit_message *message, crabbit_event *event);

/// Takes the next thing that has arrived, without waiting, and sends a heartbeat if one is due. Call it until it gives
/// `CRABBIT_NOTHING` before waiting for the socket.
void crabbit_next(crabbit *connection, crabbit_event *event);

/// The socket.
int crabbit_descriptor(const crabbit *connection);

/// The bytes that have arrived since the connection was made; 0 if the system can't tell.
uint64_t crabbit_received(int descriptor);

/// Closes the connection; says so to the broker if `politely`, which waits for at most half a second.
void crabbit_close(crabbit *connection, int politely);

#endif
