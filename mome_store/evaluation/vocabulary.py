"""The words that invented people and their random answers are made of."""

from __future__ import annotations


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FIRST_NAMES = _words("""
    Ada Adrian Agnes Aino Alba Alvin Amara Anatol Anika Anton Aoife Ariane Arvid Asta Aurel Bastian Beata Benno
    Bianca Birgit Bogdan Britta Bruno Camille Carmen Cedric Celia Chiara Clemens Cosima Dalia Damian Daphne
    Darius Delia Dimitri Dorota Edda Edgar Eilidh Einar Elif Eliska Emeric Enzo Erna Esme Fabian Fatima Felix
    Fiona Florian Frida Gareth Gemma Gideon Gisela Goran Greta Gustav Halina Hamza Hanne Harriet Hektor Helga
    Henrik Hilda Hugo Ida Ilona Imani Ines Ingrid Ioana Irma Isak Ivana Jakub Jana Jasper Jelena Joachim Jolanta
    Jonas Judith Julien Kaito Kalina Karim Kasia Katrin Kenji Kerstin Klara Kofi Konrad Laila Lars Leila
    Leontyne Lidia Linus Livia Lorenz Lucia Ludwig Magda Malik Manon Marcin Mareike Margit Marius Matilda Mauro
    Meera Mihai Milena Mirko Nadia Naoko Nikolai Nina Noemi Olaf Olga Oscar Paloma Pavel Petra Philippa Quentin
    Ragna Ramon Renate Rocco Romy Rosalind Rufus Sabine Samira Sandor Selma Sergio Silvan Sofia Stellan Sunniva
    Tamara Tariq Teodor Thea Tilda Tobias Tomasz Ulrike Ursula Valentin Vera Viktor Wanda Wilhelm Yara Yusuf
    Zdenka Zoltan
""")

LAST_NAMES = _words("""
    Abelson Achterberg Adeyemi Ahlgren Albescu Almeida Andersen Arroyo Aszkowska Aylward Baumann Beaulieu
    Belmonte Bengtson Bereza Bianchi Blomqvist Boateng Borowska Brandt Brennan Brodsky Buchholz Caldera Carlsen
    Castellani Cernik Chaudhry Chmielewski Claesson Corrigan Dahlberg Dambrosio Danek Delacroix Demirel
    Dobrowski Donnelly Dragomir Eberhardt Eklund Eriksen Escobar Fairweather Falkner Ferreira Fitzgerald
    Fontaine Forsberg Friedel Galanis Garrido Gawronska Gerlach Giordano Goldoni Grabowska Granqvist Gruber
    Haddad Halvorsen Hartwig Havlicek Heikkinen Herrera Hjelm Hoffmann Holmgren Horvath Ibarra Ilunga Ionescu
    Isaksen Ivarsson Jankowska Jelinek Johansen Jurgens Kaczmarek Kallio Kamara Karlsen Kasparov Keller Kiraly
    Klementova Kowalska Kozlov Kristensen Kubiak Kurosawa Lachance Lagerkvist Laskaris Lehmann Leroux Lindqvist
    Lombardi Lundgren Maccari Madsen Malinowski Marchetti Markovic Mazurek Mensah Mikkelsen Moravec Moretti
    Mwangi Nakamura Navarro Nedelcu Niemi Nowicka Nyberg Obermann Odonnell Okafor Okonkwo Olsson Onyango
    Ostrowska Paasonen Papadakis Pellegrini Petrov Piotrowska Popescu Quigley Radulescu Rasmussen Reinholt
    Ribeiro Rinaldi Rosenthal Rutkowska Sabatini Salonen Santoro Schilling Sedlak Serrano Silvestri Sobczak
    Sorensen Stankovic Steiner Strand Szymanska Takahashi Tanaka Thorvald Tomczyk Torres Ulvestad Urbanek
    Valenti Vasquez Verhoeven Virtanen Vogel Wagenaar Walczak Wesolowska Winther Wojcik Yamada Yilmaz Zalewska
    Zelenka Zimmer
""")

MONTHS = _words("""
    January February March April May June July August September October November December
""")

TOWN_STARTS = _words("""
    Alder Amber Ashen Barren Birch Black Bracken Bram Brook Calder Cinder Clover Copper Crow Dun Eagle East
    Elder Fallow Fern Fox Glen Gold Grey Hallow Hare Hazel Heron High Holly Ivy Kes Lark Linden Long Marsh Mill
    Moss Nettle North Oaken Otter Pell Quill Raven Red Rowan Sable Salt Silver Stone Storm Swan Thorn Timber
    Under Vale Wester Whin Willow Wren
""")

TOWN_ENDS = _words("""
    beck borough bridge brook burn by combe croft dale den fell field ford gate ham haven heath hithe holt hurst
    keld ley mere minster mouth pool port ridge shaw stead stoke thorpe ton wald wick worth
""")

FIRM_NAMES = _words("""
    Acanthus Aldergrove Argenta Astrolabe Baltic Basalt Boreal Brightwater Cardamom Cavendel Cobalt Corvid
    Delphin Drumlin Ekwall Emberly Fathom Fennimore Galvanic Halcyon Hexagon Ironbark Jettison Juniper Kestrel
    Lanthorn Lodestone Meridian Mistral Norrvik Obsidian Orpheum Palisade Pemberly Quarto Quillon Redfern
    Sextant Solstice Tamarack Tessera Umbra Verdigris Vulcan Windlass Yarrow Zephyr
""")

FIRM_TRADES = _words("""
    Airways Analytics Apothecaries Bakeries Bindery Brewing Cartography Ceramics Chemicals Clockworks Dredging
    Engineering Foundry Freight Glassworks Insurance Joinery Laboratories Lighting Logistics Marine Mills Optics
    Outfitters Publishing Robotics Seeds Shipping Software Surveyors Textiles Timber Tooling Turbines
""")

DISH_WAYS = _words("""
    baked braised charred creamed curried fried glazed grilled pickled poached roasted smoked spiced steamed
    stuffed
""")

DISH_THINGS = _words("""
    artichokes asparagus aubergines beetroot cabbage carrots catfish cauliflower chickpeas cod courgettes crab
    duck eel fennel halibut herring lamb leeks lentils mackerel marrow mushrooms mussels mutton okra parsnips
    partridge peppers pheasant plums pork pumpkin quail rabbit salmon sardines shallots squid tofu tripe trout
    turkey turnips venison
""")

DISH_SIDES = _words("""
    almonds apricots barley bulgur capers chestnuts couscous cranberries dill dumplings garlic ginger
    horseradish lemon mint mustard noodles olives pesto polenta raisins rice rosemary saffron sesame spinach
    tarragon thyme walnuts yoghurt
""")

PET_NAMES = _words("""
    Admiral Anchovy Bagel Banjo Barnaby Biscuit Bobbin Bramble Buttons Caramel Chutney Cinnamon Clementine Comet
    Crumpet Custard Dandelion Domino Dumpling Falafel Fidget Flapjack Fudge Gizmo Gnocchi Hazelnut Hobnob Igor
    Jellybean Jinx Kipper Ladybird Licorice Lollipop Macaroni Marble Marzipan Mittens Mocha Mooncake Mustang
    Nimbus Noodle Nutmeg Oatcake Olive Pancake Paprika Peanut Pepper Pickle Pinecone Pippin Poppet Pretzel
    Pudding Pumpernickel Quibble Radish Ravioli Rhubarb Sardine Scamper Scone Sherbet Snickers Spatula Sprocket
    Squeak Sultana Tadpole Teapot Thimble Toffee Truffle Turnip Twiglet Vesper Waffle Whiskers Wombat Zigzag
""")
