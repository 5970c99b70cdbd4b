import NIOCore
import NIOHTTP2

/// The limits of HTTP/2's connections and streams that the codec itself keeps. Above one of them it ends the connection, and says why.
enum HTTP2Limits {
  /// Requests that a connection may have open (RFC 9113, 5.1.2, recommends no fewer).
  static let streams = 100
  /// Bytes of a request's fields, unpacked, and 32 for each. The codec's own limit until a client has acknowledged another one.
  static let fieldBytes = 16 << 10
  /// In ``window``: PING, SETTINGS and PRIORITY frames, and streams that the client gives up.
  static let frames = 1_000
  static let resets = 500
  static let window = TimeAmount.seconds(30)
  /// Frames that wait for a client that doesn't read.
  static let bufferedFrames = 1_000

  static func connection() -> NIOHTTP2Handler.ConnectionConfiguration {
    var configuration = NIOHTTP2Handler.ConnectionConfiguration()
    configuration.initialSettings = [
      HTTP2Setting(parameter: .maxConcurrentStreams, value: streams),
      HTTP2Setting(parameter: .maxHeaderListSize, value: fieldBytes),
    ]
    configuration.maximumBufferedControlFrames = bufferedFrames
    configuration.controlFrameRateLimit.maximumCount = frames
    configuration.controlFrameRateLimit.windowLength = window
    return configuration
  }

  static func stream() -> NIOHTTP2Handler.StreamConfiguration {
    var configuration = NIOHTTP2Handler.StreamConfiguration()
    configuration.streamResetFrameRateLimit.maximumCount = resets
    configuration.streamResetFrameRateLimit.windowLength = window
    return configuration
  }
}
