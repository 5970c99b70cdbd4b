import NIOCore
import NIOPosix
import NIOSSL

/// Makes HTTP/1.1 connections to one endpoint.
struct Connector: Sendable {
  struct Failure: Error, CustomStringConvertible {
    let description: String
  }

  let endpoint: Endpoint
  /// What to connect to instead of resolving the endpoint's name.
  let address: SocketAddress?
  let tls: NIOSSLContext?
  /// For the connection, and again for the TLS handshake.
  let timeLimit: TimeAmount
  let responseLimits: ResponseReader.Limits
  let validatesHeads: Bool

  /// Connects, and completes the TLS handshake where the endpoint has one. An error's text says why it could not.
  func connect(on loop: any EventLoop) -> EventLoopFuture<any Channel> {
    // An IP address has no server name to send.
    let isAddress = (try? SocketAddress(ipAddress: endpoint.host, port: 0)) != nil
    let handshake = NIOLoopBound(
      tls.map { _ in Handshake(host: endpoint.host, isAddress: isAddress) }, eventLoop: loop)
    let bootstrap = ClientBootstrap(group: loop)
      .connectTimeout(timeLimit)
      .channelInitializer { channel in
        channel.eventLoop.makeCompletedFuture {
          try channel.syncOptions?.setOption(.recvAllocator, value: AdaptiveRecvByteBufferAllocator.forMessages)
          let pipeline = channel.pipeline.syncOperations
          if let tls, let handshake = handshake.value {
            let name = isAddress ? nil : endpoint.host
            try pipeline.addHandler(NIOSSLClientHandler(context: tls, serverHostname: name))
            try pipeline.addHandler(handshake)
          }
          let reader = ResponseReader(responseLimits) { [host = endpoint.host] error in
            TLSFailure.reason(error, host: host)
          }
          try reader.addHandlers(to: pipeline, validatesHeads: validatesHeads)
        }
      }
    let connected =
      if let address { bootstrap.connect(to: address) } else {
        bootstrap.connect(host: endpoint.host, port: endpoint.port)
      }
    return connected.flatMap { channel in
      guard let handshake = handshake.value else { return channel.eventLoop.makeSucceededFuture(channel) }
      let done = handshake.done(on: channel, within: timeLimit)
      done.whenFailure { _ in channel.close(promise: nil) }
      return done.map { channel }
    }
    .flatMapErrorThrowing { throw Failure(description: Self.reason($0)) }
  }

  private static func reason(_ error: any Error) -> String {
    switch error {
    case let error as NIOConnectionError:
      error.connectionErrors.first.map { "\($0.error)" } ?? "\(error.host) has no address"
    default: "\(error)"
    }
  }
}
