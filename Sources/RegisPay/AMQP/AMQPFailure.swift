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
  /// A broker's text may have any bytes, and goes into log lines.
  init(ofBroker bytes: ByteBufferView) {
    let text = String(decoding: bytes, as: UTF8.self)
    self = String(
      String.UnicodeScalarView(text.unicodeScalars.map { Self.isUnseen($0) ? " " : $0 }))
  }

  /// Ends a line, or changes how the rest of one is shown.
  private static func isUnseen(_ scalar: Unicode.Scalar) -> Bool {
    switch scalar.properties.generalCategory {
    case .control, .format, .lineSeparator, .paragraphSeparator: true
    default: false
    }
  }
}
