#include "CRabbitMQ.h"

#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <amqp.h>
#include <amqp_framing.h>
#include <amqp_ssl_socket.h>
#include <amqp_tcp_socket.h>

// Messages and confirms on one, declarations on another: the broker closes a channel after a declaration that it refuses. What is
// consumed comes on a third, whose close gives back what was not settled.
enum { publishing = 1, declaring = 2, consuming = 3 };

struct crabbit {
  amqp_connection_state_t state;
  int descriptor;
  int is_declaring;
  // Of a returned message: the rest of its content that is still to come.
  enum { no_return, header_due, body_due } returned;
  uint64_t body_due_bytes;
  crabbit_event return_event;
  int is_consuming;
  // Of a delivery: the rest of its content that is still to come.
  enum { no_delivery, delivery_header_due, delivery_body_due } delivery;
  uint64_t delivery_due_bytes;
  crabbit_event delivery_event;
  size_t body_bytes;
  char body[CRABBIT_BODY];
};

static void copy_text(char *to, amqp_bytes_t from) {
  size_t count = from.len < CRABBIT_TEXT - 1 ? from.len : CRABBIT_TEXT - 1;
  if (count > 0) memcpy(to, from.bytes, count);
  to[count] = 0;
}

static void clear(crabbit_event *event) { memset(event, 0, sizeof *event); }

static void lose(crabbit_event *event, const char *reason) {
  clear(event);
  event->kind = CRABBIT_LOST;
  snprintf(event->text, sizeof event->text, "%s", reason);
}

static void lose_by_status(crabbit_event *event, int status) {
  switch (status) {
    case AMQP_STATUS_SSL_PEER_VERIFY_FAILED:
      return lose(event, "no root certificate that is trusted here (--broker-roots) vouches for its certificate");
    case AMQP_STATUS_SSL_HOSTNAME_VERIFY_FAILED:
      return lose(event, "its certificate is for another host");
    default:
      lose(event, amqp_error_string2(status));
  }
}

static void take_close(crabbit_event *event, const amqp_method_t *method) {
  clear(event);
  event->kind = CRABBIT_CLOSED;
  if (method->id == AMQP_CHANNEL_CLOSE_METHOD) {
    const amqp_channel_close_t *close = method->decoded;
    event->code = close->reply_code;
    copy_text(event->text, close->reply_text);
  } else if (method->id == AMQP_CONNECTION_CLOSE_METHOD) {
    const amqp_connection_close_t *close = method->decoded;
    event->code = close->reply_code;
    copy_text(event->text, close->reply_text);
  } else {
    lose(event, "an unexpected response");
  }
}

// 0 for success; 1 if the broker has closed the channel; -1 if the connection can't be used any more.
static int check(amqp_rpc_reply_t reply, crabbit_event *event) {
  switch (reply.reply_type) {
    case AMQP_RESPONSE_NORMAL:
      return 0;
    case AMQP_RESPONSE_SERVER_EXCEPTION:
      take_close(event, &reply.reply);
      return reply.reply.id == AMQP_CHANNEL_CLOSE_METHOD ? 1 : -1;
    default:
      lose_by_status(event, reply.library_error);
      return -1;
  }
}

crabbit *crabbit_open(const char *host, int port, const char *roots, int limit_ms, crabbit_event *event) {
  clear(event);
  crabbit *connection = calloc(1, sizeof *connection);
  amqp_connection_state_t state = connection ? amqp_new_connection() : NULL;
  if (!state) {
    free(connection);
    lose(event, "no memory");
    return NULL;
  }
  connection->state = state;
  struct timeval limit = {limit_ms / 1000, limit_ms % 1000 * 1000};
  // Both copy the time.
  amqp_set_handshake_timeout(state, &limit);
  amqp_set_rpc_timeout(state, &limit);
  amqp_socket_t *socket = roots ? amqp_ssl_socket_new(state) : amqp_tcp_socket_new(state);
  int status = socket ? AMQP_STATUS_OK : AMQP_STATUS_NO_MEMORY;
  if (socket && roots) {
    amqp_ssl_socket_set_verify_peer(socket, 1);
    amqp_ssl_socket_set_verify_hostname(socket, 1);
    status = amqp_ssl_socket_set_ssl_versions(socket, AMQP_TLSv1_2, AMQP_TLSvLATEST);
    if (status == AMQP_STATUS_OK && amqp_ssl_socket_set_cacert(socket, roots) != AMQP_STATUS_OK) {
      amqp_destroy_connection(state);
      free(connection);
      lose(event, "the file of root certificates can't be read");
      return NULL;
    }
  }
  if (status == AMQP_STATUS_OK) status = amqp_socket_open_noblock(socket, host, port, &limit);
  if (status != AMQP_STATUS_OK) {
    amqp_destroy_connection(state);
    free(connection);
    if (status == AMQP_STATUS_SOCKET_ERROR) {
      // The library keeps the system's reason to itself.
      lose(event, "nothing listens there, or it can't be reached");
    } else {
      lose_by_status(event, status);
    }
    return NULL;
  }
  connection->descriptor = amqp_get_sockfd(state);
  return connection;
}

int crabbit_login(crabbit *connection, const char *vhost, const char *user, const char *password, const char *name,
                  const char *version, int heartbeat_seconds, crabbit_event *event) {
  clear(event);
  amqp_connection_state_t state = connection->state;
  // The library asks for none of these by itself.
  amqp_table_entry_t capabilities[] = {
      {amqp_cstring_bytes("connection.blocked"), {.kind = AMQP_FIELD_KIND_BOOLEAN}},
      {amqp_cstring_bytes("consumer_cancel_notify"), {.kind = AMQP_FIELD_KIND_BOOLEAN}},
  };
  capabilities[0].value.value.boolean = capabilities[1].value.value.boolean = 1;
  amqp_table_entry_t properties[4];
  properties[0].key = amqp_cstring_bytes("capabilities");
  properties[0].value.kind = AMQP_FIELD_KIND_TABLE;
  properties[0].value.value.table.num_entries = sizeof capabilities / sizeof capabilities[0];
  properties[0].value.value.table.entries = capabilities;
  properties[1].key = amqp_cstring_bytes("connection_name");
  properties[1].value.kind = AMQP_FIELD_KIND_UTF8;
  properties[1].value.value.bytes = amqp_cstring_bytes(name);
  properties[2].key = amqp_cstring_bytes("product");
  properties[2].value = properties[1].value;
  properties[3].key = amqp_cstring_bytes("version");
  properties[3].value.kind = AMQP_FIELD_KIND_UTF8;
  properties[3].value.value.bytes = amqp_cstring_bytes(version);
  const amqp_table_t table = {4, properties};
  if (check(amqp_login_with_properties(state, vhost, 0, CRABBIT_FRAME, heartbeat_seconds, &table, AMQP_SASL_METHOD_PLAIN,
                                       user, password), event) != 0) {
    return -1;
  }
  amqp_channel_open(state, publishing);
  if (check(amqp_get_rpc_reply(state), event) != 0) return -1;
  amqp_confirm_select(state, publishing);
  return check(amqp_get_rpc_reply(state), event) == 0 ? 0 : -1;
}

static int begin_declaring(crabbit *connection, crabbit_event *event) {
  clear(event);
  if (connection->is_declaring) return 0;
  amqp_channel_open(connection->state, declaring);
  if (check(amqp_get_rpc_reply(connection->state), event) != 0) return -1;
  connection->is_declaring = 1;
  return 0;
}

static int end_declaring(crabbit *connection, crabbit_event *event) {
  int result = check(amqp_get_rpc_reply(connection->state), event);
  if (result == 1) {
    connection->is_declaring = 0;
    amqp_channel_close_ok_t ok = {0};
    int status = amqp_send_method(connection->state, declaring, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
    if (status != AMQP_STATUS_OK) {
      lose_by_status(event, status);
      return -1;
    }
  }
  return result;
}

int crabbit_declare(crabbit *connection, const char *exchange, crabbit_event *event) {
  if (begin_declaring(connection, event) != 0) return -1;
  amqp_exchange_declare(connection->state, declaring, amqp_cstring_bytes(exchange), amqp_cstring_bytes("fanout"), 0, 1, 0, 0,
                        amqp_empty_table);
  return end_declaring(connection, event);
}

int crabbit_bind(crabbit *connection, const char *source, const char *destination, crabbit_event *event) {
  if (begin_declaring(connection, event) != 0) return -1;
  amqp_exchange_bind(connection->state, declaring, amqp_cstring_bytes(destination), amqp_cstring_bytes(source),
                     amqp_empty_bytes, amqp_empty_table);
  return end_declaring(connection, event);
}

static amqp_table_entry_t text_entry(const char *key, const char *value) {
  amqp_table_entry_t entry = {amqp_cstring_bytes(key), {.kind = AMQP_FIELD_KIND_UTF8}};
  entry.value.value.bytes = amqp_cstring_bytes(value);
  return entry;
}

int crabbit_declare_queue(crabbit *connection, const char *queue, const char *dead_letters, int delivery_limit,
                          crabbit_event *event) {
  if (begin_declaring(connection, event) != 0) return -1;
  // What is given up goes to the other queue, which has to confirm it first; that needs the overflow.
  amqp_table_entry_t entries[] = {
      text_entry("x-queue-type", "quorum"),
      text_entry("x-dead-letter-exchange", ""),
      text_entry("x-dead-letter-routing-key", dead_letters),
      text_entry("x-dead-letter-strategy", "at-least-once"),
      text_entry("x-overflow", "reject-publish"),
      {amqp_cstring_bytes("x-delivery-limit"), {.kind = AMQP_FIELD_KIND_I32}},
  };
  entries[5].value.value.i32 = delivery_limit;
  const amqp_table_t table = {sizeof entries / sizeof entries[0] - (delivery_limit > 0 ? 0 : 1), entries};
  const int passive = 0, durable = 1, exclusive = 0, auto_delete = 0;
  amqp_queue_declare(connection->state, declaring, amqp_cstring_bytes(queue), passive, durable, exclusive, auto_delete, table);
  return end_declaring(connection, event);
}

int crabbit_look_at_queue(crabbit *connection, const char *queue, uint32_t *messages, uint32_t *consumers,
                          crabbit_event *event) {
  if (begin_declaring(connection, event) != 0) return -1;
  const int passive = 1;
  amqp_queue_declare_ok_t *ok = amqp_queue_declare(connection->state, declaring, amqp_cstring_bytes(queue), passive, 0, 0, 0,
                                                   amqp_empty_table);
  if (ok) {
    *messages = ok->message_count;
    *consumers = ok->consumer_count;
  }
  return end_declaring(connection, event);
}

int crabbit_bind_queue(crabbit *connection, const char *queue, const char *exchange, crabbit_event *event) {
  if (begin_declaring(connection, event) != 0) return -1;
  amqp_queue_bind(connection->state, declaring, amqp_cstring_bytes(queue), amqp_cstring_bytes(exchange), amqp_empty_bytes,
                  amqp_empty_table);
  return end_declaring(connection, event);
}

// As end_declaring, for the channel of what is consumed.
static int end_consuming(crabbit *connection, crabbit_event *event) {
  int result = check(amqp_get_rpc_reply(connection->state), event);
  if (result == 1) {
    connection->is_consuming = 0;
    amqp_channel_close_ok_t ok = {0};
    int status = amqp_send_method(connection->state, consuming, AMQP_CHANNEL_CLOSE_OK_METHOD, &ok);
    if (status != AMQP_STATUS_OK) {
      lose_by_status(event, status);
      return -1;
    }
  }
  return result;
}

int crabbit_consume(crabbit *connection, const char *queue, const char *tag, int prefetch, crabbit_event *event) {
  clear(event);
  if (!connection->is_consuming) {
    amqp_channel_open(connection->state, consuming);
    if (check(amqp_get_rpc_reply(connection->state), event) != 0) return -1;
    connection->is_consuming = 1;
    connection->delivery = no_delivery;
    const int all_bytes = 0, for_channel = 0;
    amqp_basic_qos(connection->state, consuming, all_bytes, (uint16_t)prefetch, for_channel);
    int result = end_consuming(connection, event);
    if (result != 0) return result;
  }
  // Not a call that waits: a queue that delivers already may send more than such a call may take in.
  amqp_basic_consume_t consume = {0};
  consume.queue = amqp_cstring_bytes(queue);
  consume.consumer_tag = amqp_cstring_bytes(tag);
  consume.nowait = 1;
  int status = amqp_send_method(connection->state, consuming, AMQP_BASIC_CONSUME_METHOD, &consume);
  if (status == AMQP_STATUS_OK) return 0;
  lose_by_status(event, status);
  return -1;
}

int crabbit_settle(crabbit *connection, uint64_t tag, crabbit_settlement settlement, crabbit_event *event) {
  clear(event);
  int status = settlement == CRABBIT_ACKNOWLEDGE
                   ? amqp_basic_ack(connection->state, consuming, tag, 0)
                   : amqp_basic_nack(connection->state, consuming, tag, 0, settlement == CRABBIT_GIVE_BACK);
  if (status == AMQP_STATUS_OK) return 0;
  lose_by_status(event, status);
  return -1;
}

int crabbit_stop_consuming(crabbit *connection, crabbit_event *event) {
  clear(event);
  if (!connection->is_consuming) return 0;
  connection->is_consuming = 0;
  return check(amqp_channel_close(connection->state, consuming, AMQP_REPLY_SUCCESS), event) < 0 ? -1 : 0;
}

const char *crabbit_body(const crabbit *connection, size_t *bytes) {
  *bytes = connection->body_bytes;
  return connection->body;
}

int crabbit_publish(crabbit *connection, const crabbit_message *message, crabbit_event *event) {
  amqp_basic_properties_t properties = {0};
  properties._flags = AMQP_BASIC_CONTENT_TYPE_FLAG | AMQP_BASIC_DELIVERY_MODE_FLAG | AMQP_BASIC_MESSAGE_ID_FLAG |
                      AMQP_BASIC_CORRELATION_ID_FLAG | AMQP_BASIC_HEADERS_FLAG;
  properties.content_type = amqp_cstring_bytes(message->content_type);
  properties.delivery_mode = AMQP_DELIVERY_PERSISTENT;
  properties.message_id = amqp_cstring_bytes(message->message_id);
  properties.correlation_id = amqp_cstring_bytes(message->correlation_id);
  amqp_table_entry_t headers[CRABBIT_HEADERS];
  int count = message->header_count < CRABBIT_HEADERS ? (int)message->header_count : CRABBIT_HEADERS;
  for (int index = 0; index < count; index++) {
    headers[index].key = amqp_cstring_bytes(message->headers[index].name);
    headers[index].value.kind = AMQP_FIELD_KIND_UTF8;
    headers[index].value.value.bytes = amqp_cstring_bytes(message->headers[index].value);
  }
  properties.headers.num_entries = count;
  properties.headers.entries = headers;
  const int mandatory = 1, immediate = 0;
  amqp_bytes_t body = {message->body_bytes, (void *)message->body};
  int status = amqp_basic_publish(connection->state, publishing, amqp_cstring_bytes(message->exchange), amqp_empty_bytes,
                                  mandatory, immediate, &properties, body);
  if (status == AMQP_STATUS_OK) return 0;
  lose_by_status(event, status);
  return -1;
}

// Whether the frame makes an event.
static int take_method(crabbit *connection, const amqp_frame_t *frame, crabbit_event *event) {
  const amqp_method_t *method = &frame->payload.method;
  if (frame->channel == 0) {
    switch (method->id) {
      case AMQP_CONNECTION_BLOCKED_METHOD:
        event->kind = CRABBIT_BLOCKED;
        copy_text(event->text, ((const amqp_connection_blocked_t *)method->decoded)->reason);
        return 1;
      case AMQP_CONNECTION_UNBLOCKED_METHOD:
        event->kind = CRABBIT_UNBLOCKED;
        return 1;
      case AMQP_CONNECTION_CLOSE_METHOD: {
        take_close(event, method);
        amqp_connection_close_ok_t ok = {0};
        // The connection ends whether this arrives or not.
        (void)amqp_send_method(connection->state, 0, AMQP_CONNECTION_CLOSE_OK_METHOD, &ok);
        return 1;
      }
      default:
        lose(event, "an unexpected method on channel 0");
        return 1;
    }
  }
  switch (method->id) {
    case AMQP_BASIC_ACK_METHOD: {
      const amqp_basic_ack_t *ack = method->decoded;
      event->kind = CRABBIT_ACK;
      event->tag = ack->delivery_tag;
      event->multiple = ack->multiple;
      return 1;
    }
    case AMQP_BASIC_NACK_METHOD: {
      const amqp_basic_nack_t *nack = method->decoded;
      event->kind = CRABBIT_NACK;
      event->tag = nack->delivery_tag;
      event->multiple = nack->multiple;
      return 1;
    }
    case AMQP_BASIC_RETURN_METHOD: {
      const amqp_basic_return_t *returned = method->decoded;
      clear(&connection->return_event);
      connection->return_event.kind = CRABBIT_RETURN;
      connection->return_event.code = returned->reply_code;
      copy_text(connection->return_event.text, returned->reply_text);
      connection->returned = header_due;
      return 0;
    }
    case AMQP_CHANNEL_CLOSE_METHOD:
      take_close(event, method);
      return 1;
    default:
      lose(event, "an unexpected method on the channel");
      return 1;
  }
}

static int end_return(crabbit *connection, crabbit_event *event) {
  connection->returned = no_return;
  *event = connection->return_event;
  return 1;
}

static int end_delivery(crabbit *connection, crabbit_event *event) {
  connection->delivery = no_delivery;
  *event = connection->delivery_event;
  return 1;
}

static int take_delivered_method(crabbit *connection, const amqp_method_t *method, crabbit_event *event) {
  switch (method->id) {
    case AMQP_BASIC_DELIVER_METHOD: {
      const amqp_basic_deliver_t *deliver = method->decoded;
      clear(&connection->delivery_event);
      connection->delivery_event.kind = CRABBIT_DELIVERY;
      connection->delivery_event.tag = deliver->delivery_tag;
      copy_text(connection->delivery_event.text, deliver->consumer_tag);
      connection->delivery = delivery_header_due;
      connection->body_bytes = 0;
      return 0;
    }
    case AMQP_BASIC_CANCEL_METHOD:
      lose(event, "a queue was deleted, or its leader was lost");
      return 1;
    case AMQP_CHANNEL_CLOSE_METHOD:
      take_close(event, method);
      return 1;
    default:
      lose(event, "an unexpected method on the channel of deliveries");
      return 1;
  }
}

static int take_delivered_frame(crabbit *connection, const amqp_frame_t *frame, crabbit_event *event) {
  // What was on its way when the channel was closed.
  if (!connection->is_consuming) return 0;
  if (frame->frame_type == AMQP_FRAME_METHOD && connection->delivery == no_delivery) {
    return take_delivered_method(connection, &frame->payload.method, event);
  }
  if (frame->frame_type == AMQP_FRAME_HEADER && connection->delivery == delivery_header_due &&
      frame->payload.properties.class_id == AMQP_BASIC_CLASS) {
    connection->delivery_due_bytes = frame->payload.properties.body_size;
    connection->delivery_event.is_long = connection->delivery_due_bytes > CRABBIT_BODY;
    if (connection->delivery_due_bytes == 0) return end_delivery(connection, event);
    connection->delivery = delivery_body_due;
    return 0;
  }
  const size_t length = frame->frame_type == AMQP_FRAME_BODY ? frame->payload.body_fragment.len : 0;
  if (frame->frame_type == AMQP_FRAME_BODY && connection->delivery == delivery_body_due &&
      length <= connection->delivery_due_bytes) {
    // All parts together are at most the size of the header, which the buffer has room for.
    if (!connection->delivery_event.is_long && length > 0) {
      memcpy(connection->body + connection->body_bytes, frame->payload.body_fragment.bytes, length);
      connection->body_bytes += length;
    }
    connection->delivery_due_bytes -= length;
    if (connection->delivery_due_bytes == 0) return end_delivery(connection, event);
    event->kind = CRABBIT_PART;
    return 1;
  }
  lose(event, "a frame of a delivery out of order");
  return 1;
}

static int take_frame(crabbit *connection, const amqp_frame_t *frame, crabbit_event *event) {
  if (frame->channel == consuming) return take_delivered_frame(connection, frame, event);
  if (frame->channel > publishing) {
    lose(event, "a frame on a channel that is not open");
    return 1;
  }
  if (frame->frame_type == AMQP_FRAME_METHOD) {
    if (frame->channel == publishing && connection->returned != no_return) {
      lose(event, "a method in the middle of a message");
      return 1;
    }
    return take_method(connection, frame, event);
  }
  if (frame->frame_type == AMQP_FRAME_HEADER && frame->channel == publishing && connection->returned == header_due &&
      frame->payload.properties.class_id == AMQP_BASIC_CLASS) {
    const amqp_basic_properties_t *properties = frame->payload.properties.decoded;
    if (properties->_flags & AMQP_BASIC_MESSAGE_ID_FLAG) {
      copy_text(connection->return_event.message_id, properties->message_id);
    }
    connection->body_due_bytes = frame->payload.properties.body_size;
    if (connection->body_due_bytes == 0) return end_return(connection, event);
    connection->returned = body_due;
    return 0;
  }
  if (frame->frame_type == AMQP_FRAME_BODY && frame->channel == publishing && connection->returned == body_due &&
      frame->payload.body_fragment.len <= connection->body_due_bytes) {
    connection->body_due_bytes -= frame->payload.body_fragment.len;
    return connection->body_due_bytes == 0 ? end_return(connection, event) : 0;
  }
  lose(event, "a frame out of order");
  return 1;
}

void crabbit_next(crabbit *connection, crabbit_event *event) {
  clear(event);
  for (;;) {
    // What the frame before needed. Nothing points to it any more.
    amqp_maybe_release_buffers(connection->state);
    amqp_frame_t frame;
    struct timeval now = {0, 0};
    int status = amqp_simple_wait_frame_noblock(connection->state, &frame, &now);
    if (status == AMQP_STATUS_TIMEOUT) return;
    if (status != AMQP_STATUS_OK) return lose_by_status(event, status);
    if (take_frame(connection, &frame, event)) return;
  }
}

int crabbit_descriptor(const crabbit *connection) { return connection->descriptor; }

uint64_t crabbit_received(int descriptor) {
  struct tcp_info info = {0};
  socklen_t bytes = sizeof info;
  return getsockopt(descriptor, IPPROTO_TCP, TCP_INFO, &info, &bytes) == 0 ? info.tcpi_bytes_received : 0;
}

void crabbit_close(crabbit *connection, int politely) {
  if (politely) {
    struct timeval limit = {0, 500000};
    amqp_set_rpc_timeout(connection->state, &limit);
    // Whatever the broker says, the connection ends.
    (void)amqp_connection_close(connection->state, AMQP_REPLY_SUCCESS);
  }
  amqp_destroy_connection(connection->state);
  free(connection);
}
