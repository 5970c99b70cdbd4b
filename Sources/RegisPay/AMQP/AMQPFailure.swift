import NIOCore

/// Why a broker, or the way to it, can't be used.
struct AMQPFailure: Error, Sendable, Hashable {
  /// AMQP's reply code, if the broker gave one.
  var code: Int?
  var reason: String

  init(code: Int? = nil, reason: String) { (self.code, self.reason) = (code, reason) }

  /// The broker has sent what the protocol, or the present state, does not allow.
  static func broken(_ what: String) -> AMQPFailure { AMQPFailure(reason: "it breaks the protocol: \(what)") }
}

extension String {
  /// A broker's text, which may have any bytes.
  init(ofBroker bytes: ByteBufferView) { self = String(decoding: bytes, as: UTF8.self).inOneLine }
}
