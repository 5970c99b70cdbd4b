import NIOCore
import NIOSSL
import NIOTLS

/// Waits for the TLS handshake of one client connection. No byte of a call leaves before the handshake is done: a failed
/// handshake means that no connection was made, and no call can have been carried out.
///
/// Lives on its connection's event loop, behind the TLS handler.
final class Handshake: ChannelInboundHandler {
  typealias InboundIn = ByteBuffer

  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  private enum State {
    case going(EventLoopPromise<Void>?)
    case ended(Result<Void, Failure>)
  }

  private let host: String
  private let isAddress: Bool
  private var state = State.going(nil)

  /// - Parameter isAddress: the host is an IP address, not a name.
  init(host: String, isAddress: Bool) {
    self.host = host
    self.isAddress = isAddress
  }

  /// Completes with the handshake. Call it once, when the connection is made.
  ///
  /// - Parameter limit: closes the connection after this time.
  func done(on channel: any Channel, within limit: TimeAmount) -> EventLoopFuture<Void> {
    switch state {
    case .ended(let result): return channel.eventLoop.makeCompletedFuture(result.mapError { $0 as any Error })
    case .going:
      let promise = channel.eventLoop.makePromise(of: Void.self)
      state = .going(promise)
      let bound = NIOLoopBound(self, eventLoop: channel.eventLoop)
      let timer = channel.eventLoop.scheduleTask(in: limit) { [host] in
        bound.value.end(
          .failure(Failure(description: "no TLS handshake with \(host) within \(Duration(limit).inTenths)")))
        channel.close(promise: nil)
      }
      promise.futureResult.whenComplete { _ in timer.cancel() }
      return promise.futureResult
    }
  }

  func userInboundEventTriggered(context: ChannelHandlerContext, event: Any) {
    if case .handshakeCompleted? = event as? TLSUserEvent {
      end(isForHost(context) ? .success(()) : .failure(Failure(description: TLSFailure.otherName(host))))
    }
    context.fireUserInboundEventTriggered(event)
  }

  /// Whether the certificate names the host. The library's own check accepts a certificate for the IP address of the connection, whatever
  /// the host's name is. An attacker who controls the name's DNS answer and has a certificate for their own address would pass it.
  private func isForHost(_ context: ChannelHandlerContext) -> Bool {
    if isAddress { return true }
    // Without a certificate there is nothing to trust.
    guard let certificate = try? context.pipeline.syncOperations.nioSSL_peerCertificate() else { return false }
    return certificate._subjectAlternativeNames().contains { name in
      name.nameType == .dnsName && CertificateHost.isName(name.contents, for: host)
    }
  }

  func errorCaught(context: ChannelHandlerContext, error: any Error) {
    if case .going = state {
      // The certificate only adds detail. Without a certificate or a TLS handler the reason stays general.
      let certificate = (try? context.pipeline.syncOperations.nioSSL_peerCertificate()).flatMap { $0 }
      let reason = TLSFailure.reason(error, host: host, certificate: certificate) ?? "\(error)"
      end(.failure(Failure(description: reason)))
    }
    context.fireErrorCaught(error)
  }

  func channelInactive(context: ChannelHandlerContext) {
    end(.failure(Failure(description: "\(host) closed the connection during the TLS handshake")))
    context.fireChannelInactive()
  }

  func handlerRemoved(context: ChannelHandlerContext) {
    end(.failure(Failure(description: "the connection to \(host) was closed during the TLS handshake")))
  }

  private func end(_ result: Result<Void, Failure>) {
    guard case .going(let promise) = state else { return }
    state = .ended(result)
    switch result {
    case .success: promise?.succeed()
    case .failure(let failure): promise?.fail(failure)
    }
  }
}
