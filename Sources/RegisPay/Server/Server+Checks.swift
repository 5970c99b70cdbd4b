import Logging

/// What a server refuses before it creates anything.
extension Server {
  static func checkKeys(_ options: ServerOptions, _ logger: Logger) throws(ServerError) {
    guard !options.isLoopback else { return }
    do throws(KeyStoreError) {
      guard try !KeyStore.hasValidKey(options.directory) else { return }
    } catch {
      throw .keys(error)
    }
    guard options.isInsecure else { throw .noKeys(host: options.host) }
    logger.warning(
      "no valid API key exists, and other machines may reach this address", metadata: ["host": "\(options.host)"])
  }

  static func makeTLS(_ options: ServerOptions) throws(ServerError) -> ServerTLS? {
    do throws(TLSFilesError) {
      return try options.tls.map { files throws(TLSFilesError) in try ServerTLS(files) }
    } catch {
      throw .tls(error)
    }
  }

  static func checkSimulator(_ options: ServerOptions) throws(ServerError) {
    guard options.refusesSimulator, !options.simulatedServices.isEmpty else { return }
    let missing = [("--psp-url", options.pspURL), ("--notifications-url", options.notificationsURL)]
    throw .noSimulator(missing: missing.filter { $0.1 == nil }.map(\.0))
  }

  static func checkMetrics(_ options: ServerOptions) throws(ServerError) {
    guard let address = options.metricsAddress, !ListenAddress.isLoopback(address.host), !options.isInsecure else {
      return
    }
    throw .openMetrics(host: address.host)
  }
}
