import NIOCore
import Synchronization

/// Identifies a call, also before its event loop has begun it.
final class CallTicket: Sendable {
  let isCancelled = Atomic<Bool>(false)
}

/// A call from its beginning to its response, whatever connections it needs. Lives on its event loop.
final class PendingCall {
  typealias Completion = @Sendable (Result<ClientResponse, CallFailure>) -> Void

  let call: ClientCall
  let ticket: CallTicket
  let deadline: NIODeadline
  private(set) var completion: Completion?
  /// The connection that carries the call.
  var connection: PooledConnection?
  /// Bytes of the call may have left this machine.
  var wasSent = false
  /// The call was sent before, on a kept-alive connection that may have been closed before the call arrived.
  var hasBeenRepeated = false
  /// The status of a response that came on a reused connection and denied an effect; the call is sent again on a new connection to
  /// confirm it.
  var firstDenial: Int?

  init(_ call: ClientCall, _ ticket: CallTicket, _ deadline: NIODeadline, _ completion: @escaping Completion) {
    self.call = call
    self.ticket = ticket
    self.deadline = deadline
    self.completion = completion
  }

  func complete(_ result: Result<ClientResponse, CallFailure>) {
    completion?(result)
    completion = nil
  }
}
