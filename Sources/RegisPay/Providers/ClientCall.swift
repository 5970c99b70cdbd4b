import NIOCore
import NIOHTTP1

/// An HTTP call to send.
struct ClientCall: Sendable {
  var head: HTTPRequestHead
  var body: ByteBuffer
  /// The call may be sent again when its connection breaks without a response: it has an idempotency key.
  var isRepeatable = true
  /// Receives the body of a 2xx as it arrives, with no limit on length or time; nil to collect the body within the limits.
  var sink: (@Sendable (ByteBuffer) -> Void)?
}

/// The response to an HTTP call.
struct ClientResponse: Sendable, Hashable {
  var status: Int
  var body: [UInt8]
  /// The wait that the response asks for (`Retry-After`), without a limit.
  var retryAfter: Duration?
  /// The call was sent before, on a kept-alive connection that broke without a response: this may be the response to the
  /// repeat.
  var isToRepeat = false
  /// The response says that the call was not carried out, and it may be a stray one, sent before the call arrived.
  var isUnconfirmed = false
}

/// Why a call has no response.
enum CallFailure: Error, Sendable, Hashable, CustomStringConvertible {
  /// No connection could be made, or none was free in time: no byte of the call was sent.
  case unreachable(String)
  /// This process has as many connections open as its limit allows and made no other: the other side is not at fault.
  case noSocket
  /// The call was sent, and no response came in time: whether the call had an effect is unknown.
  case timeout(after: Duration)
  /// The connection broke after the call may have been sent: whether the call had an effect is unknown.
  case broken(String)

  var description: String {
    switch self {
    case .unreachable(let reason): "it can't be reached: \(reason)"
    case .noSocket: "this process has too many connections open for its limit of open files (ulimit -n)"
    case .timeout(let limit): "no response within \(limit)"
    case .broken(let reason): "the connection broke: \(reason)"
    }
  }
}

extension Duration {
  init(_ amount: TimeAmount) { self = .nanoseconds(amount.nanoseconds) }
}
