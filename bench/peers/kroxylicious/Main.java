import io.kroxylicious.proxy.KafkaProxy;
import io.kroxylicious.proxy.config.ConfigParser;
import io.kroxylicious.proxy.config.Configuration;
import io.kroxylicious.proxy.internal.config.Features;
import java.io.FileInputStream;
import java.io.InputStream;

/** Runs the proxy by the configuration file that it is given. */
public class Main {
  public static void main(String[] arguments) throws Exception {
    ConfigParser parser = new ConfigParser();
    Configuration configuration;
    try (InputStream file = new FileInputStream(arguments[0])) {
      configuration = parser.parseConfiguration(file);
    }
    try (KafkaProxy proxy = new KafkaProxy(parser, configuration, Features.defaultFeatures())) {
      proxy.startup();
      proxy.block();
    }
  }
}
